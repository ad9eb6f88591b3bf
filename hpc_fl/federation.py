"""The round loop.

A round: the parties of the cohort train from the current parameters; their updates are exchanged; every rank
applies the mean. What the parties do is the executor's, what travels and what is done with it is the
strategy's, how it travels is the exchange's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.comm.runtime import StopSignals
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange import Exchange, Mixed
from hpc_fl.flat import FlatModel
from hpc_fl.metrics import RoundRecords
from hpc_fl.resilience import CheckpointStore, Snapshot
from hpc_fl.strategies.strategy import PartyStates, State, Strategy
from hpc_fl.telemetry.events import CheckpointWritten, PartyLeftOut, RoundFinished
from hpc_fl.telemetry.recorder import Recorder
from hpc_fl.telemetry.spans import Spans
from hpc_fl.training.cohort import Cohort
from hpc_fl.training.evaluate import Evaluator, Scores
from hpc_fl.training.executor import Executor, Trained
from hpc_fl.training.parties import LocalBuffers


@dataclass(frozen=True)
class Plan:
    """How often things happen, in rounds. ``checkpoint_every`` None: only after the last one."""

    rounds: int
    evaluate_every: int = 1
    checkpoint_every: int | None = None
    keep_best: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``stopped`` names the signal that ended it early, None when it completed."""

    rounds_done: int
    stopped: str | None
    scores: Scores | None
    seconds: float


class Federation:
    """One model trained by all parties. Made on every rank from equal parts; every rank must call
    :meth:`run`.

    ``hosted``: ids of the parties whose data this rank holds; ``samples``: how many each of all parties has.
    ``params`` (n,) holds the agreed values, the same bits on every rank.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        transport: Transport,
        model: FlatModel,
        hosted: tuple[int, ...],
        samples: NDArray[np.int64],
        cohort: Cohort,
        executor: Executor,
        strategy: Strategy,
        exchange: Exchange,
        evaluator: Evaluator,
        buffers: LocalBuffers,
        checkpoints: CheckpointStore | None,
        recorder: Recorder,
        records: RoundRecords,
        spans: Spans,
    ) -> None:
        self.plan, self.transport, self.model = plan, transport, model
        self._hosted, self._samples = frozenset(hosted), samples
        self._cohort, self._executor = cohort, executor
        self._strategy, self._exchange, self._evaluator = strategy, exchange, evaluator
        self._buffers, self._checkpoints = buffers, checkpoints
        self._recorder, self._records, self._spans = recorder, records, spans
        self.params = model.values.clone()
        self.state: State = strategy.init(model.trainable, model.device)
        self.parties: PartyStates = {}
        self.round = 0
        self._best: float | None = None
        self._elapsed = 0.0

    def run(self, signals: StopSignals) -> Outcome:
        """Runs the rounds that are left, or until a signal asks to stop; a checkpoint ends it."""
        began, stopped = time.perf_counter(), None
        self.begin()
        scores = self._evaluate(True) if self.round >= self.plan.rounds else None
        while self.round < self.plan.rounds and stopped is None:
            cohort, mixed = self.step(stop=signals.requested is not None)
            if mixed.stop:
                stopped = signals.requested or "a signal to another rank"
            last = self.round == self.plan.rounds or stopped is not None
            measured = self._evaluate(last)
            scores = measured or scores
            # The record first: after a kill between the two, resuming writes it again.
            self.report(cohort, mixed, measured)
            self._checkpoint(measured, last)
        self.model.load(self.params)
        return Outcome(self.round, stopped, scores, time.perf_counter() - began)

    def begin(self) -> None:
        """Starts the clocks of the records."""
        self._records.begin(self._elapsed)

    def step(self, *, stop: bool = False) -> tuple[tuple[int, ...], Mixed]:
        """One round, without evaluation: the cohort, and what was exchanged. Every rank must call it.

        ``stop``: this rank asks all to stop; the answer is in the result, the same on every rank.
        """
        cohort = self._cohort(self.round)
        self._exchange.open(self.round, float(self._strategy.weights(self._samples[list(cohort)]).sum()))
        for trained in self._train(cohort):
            with self._spans("encode"):
                travelling = self._strategy.report(trained, self.state, self.parties)
                weights = self._strategy.weights(trained.samples)
                self._exchange.add(trained.party_ids, travelling, weights, trained.loss)
            del trained, travelling  # its memory is free before the next parties train
        with self._spans("communicate"):
            self._exchange.travel(stop=stop)
        with self._spans("decode"):
            mixed = self._exchange.result()
            self._strategy.apply(self.params, mixed.buffers, self.state, self.model.trainable)
        self.round += 1
        return cohort, mixed

    def _train(self, cohort: tuple[int, ...]) -> Iterator[Trained]:
        correction = self._strategy.correction(self.state, self.parties)
        mine = [party for party in cohort if party in self._hosted]
        working = iter(self._executor.train(mine, self.params, self.round, correction))
        while True:
            with self._spans("train"):
                trained = next(working, None)
            if trained is None:
                return
            yield trained
            del trained

    def _evaluate(self, last: bool) -> Scores | None:
        if not last and self.round % self.plan.evaluate_every:
            return None
        with self._spans("evaluate"):
            self.model.load(self.params)
            return self._evaluator()

    def report(self, cohort: tuple[int, ...], mixed: Mixed, scores: Scores | None) -> None:
        """Gathers what the ranks measured in the round, and tells the sinks. Every rank must call it."""
        record = self._records.make(self.round, cohort, mixed, scores)
        if record is None:
            return
        if mixed.left_out:
            self._recorder.emit(
                PartyLeftOut(self.round, mixed.left_out, "its update or its loss was not finite")
            )
        self._recorder.emit(RoundFinished(self.round, self.plan.rounds, record))

    def _checkpoint(self, scores: Scores | None, last: bool) -> None:
        every = self.plan.checkpoint_every
        due = last or (every is not None and self.round % every == 0)
        if self._checkpoints is None or not due:
            return
        began = time.perf_counter()
        with self._spans("checkpoint"):
            value = None if scores is None else -scores.loss if scores.accuracy is None else scores.accuracy
            best = self.plan.keep_best and value is not None and (self._best is None or value > self._best)
            self._best = value if best else self._best
            path = self._checkpoints.write(self.snapshot(), self.transport, best=best)
        self._recorder.emit(CheckpointWritten(self.round, path, best, time.perf_counter() - began))

    def snapshot(self) -> Snapshot:
        """Everything that the next round depends on, besides the configuration."""
        server: dict[str, Tensor] = {
            "params": self.params,
            **{f"server.{k}": v for k, v in self.state.items()},
        }
        kept = {
            "buffer": self._buffers.state(),
            "strategy": self.parties,
            "exchange": self._exchange.state(),
        }
        parties = {
            party: {f"{part}.{k}": v for part, of in kept.items() for k, v in of.get(party, {}).items()}
            for party in sorted(self._hosted)
        }
        meta: dict[str, Any] = {"best": self._best, "elapsed": self._records.elapsed}
        return Snapshot(self.round, server, parties, meta)

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from ``snapshot``, which holds the state of the parties hosted here."""
        self.round = snapshot.round
        self._best, self._elapsed = snapshot.meta["best"], snapshot.meta["elapsed"]
        self.params.copy_(snapshot.tensors["params"])
        for name, tensor in self.state.items():
            tensor.copy_(snapshot.tensors[f"server.{name}"])
        self._buffers.restore(_part(snapshot, "buffer."))
        self.parties.update(_part(snapshot, "strategy."))
        self._exchange.restore(_part(snapshot, "exchange."))


def _part(snapshot: Snapshot, prefix: str) -> PartyStates:
    """The party state whose names start with ``prefix``, without it; parties that have none are absent."""
    found = {
        party: {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for party, state in snapshot.parties.items()
    }
    return {party: state for party, state in found.items() if state}
