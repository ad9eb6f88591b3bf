"""Rounds in which every party keeps a model of its own and mixes it with its neighbours'.

The parties of the cohort train from their own models; then each buffer is mixed by the round's matrix. What
goes into the buffers and comes out is the strategy's, who mixes with whom is the topology's, how it travels
is the mixers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from hpc_fl.exchange import GossipExchange, Mixed
from hpc_fl.exchange.finite import all_finite, finite_rows
from hpc_fl.flat import FlatModel
from hpc_fl.rounds.rounds import RoundState, joined, part
from hpc_fl.strategies.decentralised import MODEL, Decentralised, Local, Own, buffers_of
from hpc_fl.telemetry.spans import Spans
from hpc_fl.training.cohort import Cohort
from hpc_fl.training.consensus import ConsensusEvaluator
from hpc_fl.training.evaluate import Scores
from hpc_fl.training.executor import Executor, Trained
from hpc_fl.training.parties import LocalBuffers


class GossipRounds:
    """See :class:`Rounds`. ``hosted``: ids of the parties whose data this rank holds, ascending;
    ``learning_rate``: of the local optimiser, by round. ``params`` (n,) is the consensus model when it was
    evaluated last: the mean of all parties' models, the same bits on every rank.

    Parties outside of the cohort neither train nor mix. A party whose local work is not finite keeps its
    model, mixes it, and is reported as left out.
    """

    def __init__(
        self,
        *,
        model: FlatModel,
        parties: int,
        hosted: tuple[int, ...],
        cohort: Cohort,
        executor: Executor,
        strategy: Decentralised,
        exchange: GossipExchange,
        evaluator: ConsensusEvaluator,
        buffers: LocalBuffers,
        learning_rate: Callable[[int], float],
        spans: Spans,
    ) -> None:
        self._model, self._everybody, self._hosted = model, parties, hosted
        self._cohort, self._executor = cohort, executor
        self._strategy, self._exchange, self._evaluator = strategy, exchange, evaluator
        self._buffers, self._learning_rate, self._spans = buffers, learning_rate, spans
        self._place = {party: place for place, party in enumerate(hosted)}
        self.rows = buffers_of(strategy, model, len(hosted))
        """By name, the buffers of the parties hosted here, (B, length)."""
        self._own = {
            party: Own({name: rows[place] for name, rows in self.rows.items()}, {})
            for party, place in self._place.items()
        }
        for own in self._own.values():
            strategy.begin(own, model.trainable)
        self.params = model.values.clone()
        exchange.agree({MODEL: self.params})
        self._gone: frozenset[int] = frozenset()

    def remove(self, parties: Iterable[int]) -> None:
        """Goes on without ``parties`` from the next round: weights are those of the graph without them. Every
        rank must call it, with the same parties. What was compressed begins anew, and so do corrections. The
        consensus model still counts the last models of those whose rank is there.
        """
        self._gone |= frozenset(parties)
        self._exchange.reset()
        for party, own in self._own.items():
            if party not in self._gone:
                self._strategy.bereave(own, self._model.trainable)

    def step(self, round_: int, *, stop: bool) -> tuple[tuple[int, ...], Mixed]:
        cohort = tuple(party for party in self._cohort(round_) if party not in self._gone)
        present = None if len(cohort) == self._everybody else frozenset(cohort)
        mixed = {name: rows.clone() for name, rows in self.rows.items()} if self._strategy.overlaps else None
        under_way = None if mixed is None else self._exchange.start(mixed, round_, present)
        trained = _Tally(self._learning_rate(round_))
        for group in self._train(cohort, round_):
            with self._spans("encode"):
                self._offer(group, trained)
        with self._spans("communicate"):
            left = self._exchange.mix(self.rows, round_, present) if under_way is None else under_way.wait()
        with self._spans("decode"):
            model = (self.rows if mixed is None else mixed)[MODEL]
            for party, rate in trained.rates.items():
                self._strategy.settle(
                    self._own[party], model[self._place[party]], rate, self._model.trainable
                )
        with self._spans("communicate"):
            told = self._exchange.tell(trained.sums, sorted({*trained.left_out, *left}), stop)
        return cohort, told

    def _train(self, cohort: tuple[int, ...], round_: int) -> Iterator[Trained]:
        correction = self._strategy.correction({party: own.kept for party, own in self._own.items()})
        mine = [party for party in cohort if party in self._place]
        models = [self.rows[MODEL][self._place[party]] for party in mine]
        return self._spans.each("train", self._executor.train(mine, models, round_, correction))

    def _offer(self, trained: Trained, tally: _Tally) -> None:
        """Takes what parties have trained into their buffers."""
        sound = [True] * len(trained.party_ids)
        if not all_finite(trained.loss, {"update": trained.update}):
            sound = (finite_rows(trained.update) & trained.loss.isfinite()).tolist()
        steps = trained.steps.tolist()
        for place, party in enumerate(trained.party_ids):
            update = trained.update[place] if sound[place] else trained.update[place].zero_()
            local = Local(update, tally.rate * steps[place], sound[place])
            self._strategy.offer(self._own[party], local, self._model.trainable)
            tally.add(party, local, float(trained.loss[place]))

    def evaluate(self) -> Scores:
        scores = self._evaluator(self.rows[MODEL])
        self.params = self._model.values.clone()
        return scores

    def state(self) -> RoundState:
        """``params`` is the consensus model as it is now."""
        own = {party: dict(own.mixed) for party, own in self._own.items()}
        kept = {
            "buffer": self._buffers.state(),
            "own": own,
            "strategy": {party: one.kept for party, one in self._own.items()},
            "exchange": self._exchange.state(),
        }
        gone = torch.tensor(sorted(self._gone), dtype=torch.int64)
        shared = {"params": self._evaluator.mean(self.rows[MODEL]), "gone": gone}
        return RoundState(shared, joined(frozenset(self._hosted), kept))

    def close(self) -> None:
        """Ends the threads and frees the transports of the mixers (collective)."""
        self._exchange.close()

    def restore(self, state: RoundState) -> None:
        self.params.copy_(state.shared["params"])
        self._gone = frozenset(state.shared["gone"].tolist())
        self._buffers.restore(part(state.parties, "buffer."))
        _fill(part(state.parties, "own."), {party: own.mixed for party, own in self._own.items()})
        _fill(part(state.parties, "strategy."), {party: own.kept for party, own in self._own.items()})
        self._exchange.restore(part(state.parties, "exchange."))


class _Tally:
    """What the parties hosted here did in a round: ``rates`` by party, ``sums`` and ``left_out`` as the
    exchange wants them.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.rates: dict[int, float] = {}
        self.sums = np.zeros(3)
        self.left_out: list[int] = []

    def add(self, party: int, local: Local, loss: float) -> None:
        self.rates[party] = local.rate
        if local.sound:
            self.sums += (1.0, loss, 1.0)
        else:
            self.left_out.append(party)


def _fill(found: dict[int, dict[str, Tensor]], tensors: Mapping[int, Mapping[str, Tensor]]) -> None:
    for party, mine in tensors.items():
        for name, tensor in mine.items():
            tensor.copy_(found[party][name])
