"""Rounds in which all parties agree on one model.

The parties of the cohort train from the current parameters; their updates are exchanged; every rank applies
the mean. What the parties do is the executor's, what travels and what is done with it is the strategy's, how
it travels is the exchange's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpc_fl.exchange import Exchange, Mixed
from hpc_fl.flat import FlatModel
from hpc_fl.rounds.rounds import RoundState, joined, part
from hpc_fl.strategies.strategy import PartyStates, State, Strategy
from hpc_fl.telemetry.spans import Spans
from hpc_fl.training.cohort import Cohort
from hpc_fl.training.evaluate import Evaluator, Scores
from hpc_fl.training.executor import Executor, Trained
from hpc_fl.training.parties import LocalBuffers


class AgreedRounds:
    """See :class:`Rounds`. ``hosted``: ids of the parties whose data this rank holds; ``samples``: how many
    each of all parties has. ``params`` (n,) holds the agreed values, the same bits on every rank.
    """

    def __init__(
        self,
        *,
        model: FlatModel,
        hosted: tuple[int, ...],
        samples: NDArray[np.int64],
        cohort: Cohort,
        executor: Executor,
        strategy: Strategy,
        exchange: Exchange,
        evaluator: Evaluator,
        buffers: LocalBuffers,
        spans: Spans,
    ) -> None:
        self._model, self._hosted, self._samples = model, frozenset(hosted), samples
        self._cohort, self._executor = cohort, executor
        self._strategy, self._exchange, self._evaluator = strategy, exchange, evaluator
        self._buffers, self._spans = buffers, spans
        self.params = model.values.clone()
        self._state: State = strategy.init(model.trainable, model.device)
        self._parties: PartyStates = {}

    def step(self, round_: int, *, stop: bool) -> tuple[tuple[int, ...], Mixed]:
        cohort = self._cohort(round_)
        self._exchange.open(round_, float(self._strategy.weights(self._samples[list(cohort)]).sum()))
        for trained in self._train(cohort, round_):
            with self._spans("encode"):
                travelling = self._strategy.report(trained, self._state, self._parties)
                weights = self._strategy.weights(trained.samples)
                self._exchange.add(trained.party_ids, travelling, weights, trained.loss)
            del trained, travelling  # its memory is free before the next parties train
        with self._spans("communicate"):
            self._exchange.travel(stop=stop)
        with self._spans("decode"):
            mixed = self._exchange.result()
            self._strategy.apply(self.params, mixed.buffers, self._state, self._model.trainable)
        return cohort, mixed

    def _train(self, cohort: tuple[int, ...], round_: int) -> Iterator[Trained]:
        correction = self._strategy.correction(self._state, self._parties)
        mine = [party for party in cohort if party in self._hosted]
        return self._spans.each("train", self._executor.train(mine, self.params, round_, correction))

    def evaluate(self) -> Scores:
        self._model.load(self.params)
        return self._evaluator()

    def state(self) -> RoundState:
        shared = {"params": self.params, **{f"server.{k}": v for k, v in self._state.items()}}
        kept = {
            "buffer": self._buffers.state(),
            "strategy": self._parties,
            "exchange": self._exchange.state(),
        }
        return RoundState(shared, joined(self._hosted, kept))

    def close(self) -> None:
        """Nothing that would not end with the process."""

    def restore(self, state: RoundState) -> None:
        self.params.copy_(state.shared["params"])
        for name, tensor in self._state.items():
            tensor.copy_(state.shared[f"server.{name}"])
        self._buffers.restore(part(state.parties, "buffer."))
        self._parties.update(part(state.parties, "strategy."))
        self._exchange.restore(part(state.parties, "exchange."))
