"""The round loop: a round, its evaluation, its record, its checkpoint.

What happens in a round is :mod:`hpc_fl.rounds`: parties agree on one model by an allreduce
(:class:`AgreedRounds`), or keep their own and mix them with their neighbours' (:class:`GossipRounds`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hpc_fl.comm.runtime import StopSignals
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange import Mixed
from hpc_fl.flat import FlatModel
from hpc_fl.metrics import RoundRecords
from hpc_fl.resilience import CheckpointStore, Snapshot
from hpc_fl.rounds import Rounds, RoundState
from hpc_fl.telemetry.events import CheckpointWritten, PartyLeftOut, RoundFinished
from hpc_fl.telemetry.recorder import Recorder
from hpc_fl.telemetry.spans import Spans
from hpc_fl.training.evaluate import Scores


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
    """A training by all parties. Made on every rank from equal parts; every rank must call :meth:`run`."""

    def __init__(
        self,
        *,
        plan: Plan,
        transport: Transport,
        model: FlatModel,
        rounds: Rounds,
        checkpoints: CheckpointStore | None,
        recorder: Recorder,
        records: RoundRecords,
        spans: Spans,
    ) -> None:
        self.plan, self.transport, self.model, self.rounds = plan, transport, model, rounds
        self._checkpoints, self._recorder = checkpoints, recorder
        self._records, self._spans = records, spans
        self.round = 0
        self._best: float | None = None
        self._elapsed = 0.0

    @property
    def params(self) -> Tensor:
        """The agreed values (n,), the same bits on every rank; under gossip those of the consensus model when
        it was evaluated last.
        """
        return self.rounds.params

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
        done = self.rounds.step(self.round, stop=stop)
        self.round += 1
        return done

    def _evaluate(self, last: bool) -> Scores | None:
        if not last and self.round % self.plan.evaluate_every:
            return None
        with self._spans("evaluate"):
            return self.rounds.evaluate()

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
        state = self.rounds.state()
        meta: dict[str, Any] = {"best": self._best, "elapsed": self._records.elapsed}
        return Snapshot(self.round, dict(state.shared), state.parties, meta)

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from ``snapshot``, which holds the state of the parties hosted here."""
        self.round = snapshot.round
        self._best, self._elapsed = snapshot.meta["best"], snapshot.meta["elapsed"]
        self.rounds.restore(RoundState(snapshot.tensors, snapshot.parties))
