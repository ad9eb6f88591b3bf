"""One record a round: what the ranks measured, gathered on rank 0."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from hpc_fl.comm.transport import Transport
from hpc_fl.exchange import Mixed
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.telemetry.spans import PHASES, Spans
from hpc_fl.training.evaluate import Scores

KINDS: Final = ("allreduce", "allgather", "gossip", "broadcast", "headers", "measuring", "control")
"""Kinds of bytes: sums, encoded or not; payloads to all; payloads to neighbours; what a group's leader hands
back; what is around payloads; the search for the fastest way, and the mean of the parties' own models; the
scores and these records.
"""
_EXCHANGED: Final = 5
"""The first so many are what the exchange sends."""


class RoundRecords:
    """Makes the records of metrics.jsonl. Every rank must call :meth:`make` after every round."""

    def __init__(self, transport: Transport, ledger: Ledger, spans: Spans) -> None:
        self._transport, self._ledger, self._spans = transport, ledger, spans
        self._mine = np.zeros(len(PHASES) + len(KINDS))
        self._all = np.zeros((transport.size, len(self._mine)))
        self._began = self._round_began = time.perf_counter()
        self._before = 0.0
        self._used = {"control"}
        self._updates, self._plain, self._exchanged, self._dense = 0, 0, 0, 0

    def begin(self, elapsed: float) -> None:
        """Starts the clocks; ``elapsed``: seconds that earlier sessions of this run took."""
        self._before = elapsed
        self._began = self._round_began = time.perf_counter()
        self._spans.take()
        self._ledger.take()

    @property
    def elapsed(self) -> float:
        """Wall seconds of this run so far, earlier sessions included."""
        return self._before + time.perf_counter() - self._began

    def make(
        self, round_: int, cohort: Sequence[int], mixed: Mixed, scores: Scores | None
    ) -> dict[str, Any] | None:
        """The record after ``round_`` rounds, on rank 0; None elsewhere."""
        seconds, sent = self._spans.take(), self._ledger.take()
        if unknown := sent.keys() - set(KINDS):
            raise ValueError(
                f"bytes of kinds {sorted(unknown)} would be missing from the record: add them to KINDS"
            )
        self._used |= sent.keys()
        self._mine[:] = [*(seconds[p] for p in PHASES), *(sent.get(k, 0) for k in KINDS)]
        if self._transport.size > 1:
            # Charged to the round after: this round's sum is already in the message.
            self._ledger.add("control", self._mine.nbytes if self._transport.rank else 0)
            self._transport.gather(self._mine, self._all if self._transport.rank == 0 else None)
        else:
            self._all[0] = self._mine
        now = time.perf_counter()
        wall, self._round_began = now - self._round_began, now
        return self._record(round_, cohort, mixed, scores, wall) if self._transport.rank == 0 else None

    def _record(
        self, round_: int, cohort: Sequence[int], mixed: Mixed, scores: Scores | None, wall: float
    ) -> dict[str, Any]:
        slowest = self._all[:, : len(PHASES)].max(0)
        sent: list[list[int]] = self._all[:, len(PHASES) :].T.astype(np.int64).tolist()  # by kind and rank
        totals = [sum(by_rank) for by_rank in sent]
        dense = mixed.dense_bytes * self._transport.size
        self._updates += mixed.payload_bytes
        self._plain += mixed.plain_bytes
        self._exchanged += sum(totals[:_EXCHANGED])
        self._dense += dense
        return {
            "round": round_,
            "world_size": self._transport.size,
            "cohort": list(cohort),
            "weight": mixed.weight,
            "train_loss": mixed.loss,
            "left_out": list(mixed.left_out),
            **({} if scores is None else scores.record()),
            "bytes_sent": {
                kind: by_rank for kind, by_rank in zip(KINDS, sent, strict=True) if kind in self._used
            },
            "bytes_total": sum(totals),
            "bytes_dense": dense,
            "payload_bytes": mixed.payload_bytes,
            "payload_ratio": mixed.payload_bytes / mixed.plain_bytes if mixed.plain_bytes else None,
            "seconds": dict(zip(PHASES, slowest.tolist(), strict=True)),
            "round_seconds": wall,
            "elapsed": self.elapsed,
            "time": time.time(),
        }

    def savings(self) -> dict[str, str]:
        """What compression and gossip saved in the rounds of this session, for the table at the end; on rank
        0. Nothing where parties exchange by a dense allreduce.
        """
        found = {}
        if self._updates != self._plain:
            found["encoded updates"] = f"{100 * self._updates / self._plain:.3g} % of float32"
        if self._dense and self._exchanged != self._dense:
            share = 100 * self._exchanged / self._dense
            found["exchange sent"] = f"{share:.3g} % of what a dense allreduce sends, headers included"
        return found
