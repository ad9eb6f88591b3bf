"""What the mixers share: their nodes, their routes, one order of calls, rows of any device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from hpc_fl.collectives.agreement import RECORD_BYTES, agree
from hpc_fl.collectives.allgather import allgather_bytes_sent
from hpc_fl.collectives.lane import Lane, Running
from hpc_fl.collectives.mixer import NodeStates, Placement
from hpc_fl.collectives.routes import Itinerary, Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import MixingMatrix


class Gossip(ABC):
    """A :class:`hpc_fl.collectives.mixer.Mixer` on a duplicate of ``transport``. Making one is collective.

    The ledger counts what a call sends: rows or payloads as "gossip", what is around payloads as "headers",
    and so the agreement that the first call of most mixers begins with (16 bytes from each rank to each
    other one). Raises :class:`TransportError` for a placement that is none, for a matrix of other nodes, and
    for rows that are not contiguous (B, n) of a dtype that the mixer takes.
    """

    name: ClassVar[str]
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32,)

    def __init__(self, transport: Transport, ledger: Ledger, placement: Placement) -> None:
        self._itinerary = Itinerary(placement, transport.rank, transport.size)
        self._transport, self._ledger = transport.dup(), ledger
        self._nodes = tuple(placement[transport.rank])
        self._lane = Lane(f"{self.name} gossip")
        self._agreed = False

    def mix(self, rows: Tensor, matrix: MixingMatrix, round_: int) -> tuple[int, ...]:
        """See :class:`hpc_fl.collectives.mixer.Mixer`. Every rank must call it."""
        routes = self._checked(rows, matrix)
        return self._lane.run(lambda: self._mix(rows, routes, round_))

    def start(self, rows: Tensor, matrix: MixingMatrix, round_: int) -> Running[tuple[int, ...]]:
        """See :class:`hpc_fl.collectives.mixer.Mixer`. Every rank must call it; raises
        :class:`TransportError` where MPI was started without MPI_THREAD_MULTIPLE.
        """
        if not self._transport.concurrent:
            raise TransportError(
                f"start: {self._transport.name} was not started for several threads "
                "(MPI_THREAD_MULTIPLE); use mix"
            )
        routes = self._checked(rows, matrix)
        return self._lane.submit(lambda: self._mix(rows, routes, round_))

    def _checked(self, rows: Tensor, matrix: MixingMatrix) -> Routes:
        if rows.dim() != 2 or len(rows) != len(self._nodes) or not rows.is_contiguous():
            raise TransportError(
                f"rows: {tuple(rows.shape)} given; contiguous ({len(self._nodes)}, n) expected, one row for "
                "each node hosted here"
            )
        if rows.dtype not in self.dtypes:
            expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in self.dtypes)
            raise TransportError(f"rows: {rows.dtype} given, {expected} expected; convert them")
        return self._itinerary.of(matrix)

    @abstractmethod
    def _mix(self, rows: Tensor, routes: Routes, round_: int) -> tuple[int, ...]:
        """Overwrites the rows by the mixed ones; the nodes left out."""

    def _agree_once(self, facts: Mapping[str, object]) -> None:
        """Raises :class:`TransportError` on every rank where ranks come to their first call with other facts:
        what MPI does with a message that is longer than the room for it, it does not say.
        """
        if self._agreed:
            return
        agree(self._transport, {"collective": f"{self.name} gossip", **facts}, 0.0)
        self._ledger.add("headers", allgather_bytes_sent(RECORD_BYTES, self._transport.size))
        self._agreed = True

    def _unsound(self, sound: list[bool]) -> tuple[int, ...]:
        """The nodes hosted here whose rows are not."""
        return tuple(node for node, good in zip(self._nodes, sound, strict=True) if not good)

    def agree(self, values: Tensor) -> None:  # noqa: B027 - most keep nothing
        """All nodes hold ``values`` (n,) now, the same bits on every rank. Every rank must call it."""

    def state(self) -> NodeStates:
        """What is kept between calls, by node; nothing unless a mixer says so."""
        return {}

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:  # noqa: B027 - most keep nothing
        """The inverse of :meth:`state`, for the nodes hosted here now."""

    def reset(self) -> None:  # noqa: B027 - most keep nothing
        """Forgets what was kept of neighbours. Every rank must call it."""

    def close(self) -> None:
        """Waits for what is under way and frees the transport (collective)."""
        self._lane.close()
        self._transport.close()
