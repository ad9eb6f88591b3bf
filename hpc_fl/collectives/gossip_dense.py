"""Gossip of rows as they are: x_i <- sum_j w_ij x_j.

Nedic, Ozdaglar: Distributed Subgradient Methods for Multi-Agent Optimization, IEEE TAC 2009; Lian et al.: Can
Decentralized Algorithms Outperform Centralized Algorithms?, NeurIPS 2017. A row travels once to each other
rank that needs it, cut into segments::

    column      0        1        2        3     ...     of all rows hosted here
    sent       done     under way ------------->         to all ranks that need them
    received   done     added    under way ---->         from all sources, in one order
    rows       mixed    (as they were ----------         until what was sent of them has left)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.algorithm import TAG, cut, kept_if_it_fails, length, settle
from hpc_fl.collectives.gossip import Gossip, local_weights
from hpc_fl.collectives.mixer import Placement
from hpc_fl.collectives.routes import Received, Routes
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression.arrays import all_finite
from hpc_fl.telemetry.ledger import Ledger

Floats = NDArray[Any]

SEGMENT: Final = 1 << 18
"""Bytes of a segment: see :data:`hpc_fl.collectives.ring.SEGMENT`."""
BUDGET: Final = 1 << 24
"""Bytes of the segments that may be on their way here at once, of all sources together."""
_SHORTEST: Final = 1 << 14
_MOST: Final = 512
_SPARSE: Final = 8


class DenseMixer(Gossip):
    """4n bytes for each row and each other rank that hosts a taker of it; see :class:`Gossip`.

    Rows of float32 or float64. Holds at most ``BUDGET`` bytes of received segments, whatever the number of
    sources and the length of the rows, and a segment of each row hosted here. A segment is shorter where
    ranks host many nodes: the segments of all their rows are worked on in the cache.
    """

    name: ClassVar[str] = "dense"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    def __init__(
        self, transport: Transport, ledger: Ledger, placement: Placement, *, segment: int | None = None
    ) -> None:
        super().__init__(transport, ledger, placement)
        most = max(1, *map(len, placement))
        self._segment = max(_SHORTEST, SEGMENT // most) if segment is None else segment
        self._slots = max(1, min(_MOST, BUDGET // self._segment))
        self._scratch = np.empty(0, np.uint8)

    def _mix(self, rows: Tensor, routes: Routes, round_: int) -> tuple[int, ...]:
        if not rows.is_cpu:
            host = rows.cpu()
            left_out = self._mix(host, routes, round_)
            rows.copy_(host)
            return left_out
        array = rows.detach().numpy()
        sound = [all_finite(row) for row in array]
        if array.size:
            _Step(self._transport, routes, array, sound, self._memory(array, routes)).run()
        nbytes = array.itemsize * array.shape[1]
        self._ledger.add("gossip", sum(nbytes * len(sent.ranks) for sent in routes.sent if sound[sent.row]))
        return self._unsound(sound)

    def _memory(self, array: Floats, routes: Routes) -> _Memory:
        """Scratch memory for these rows, kept between calls."""
        b, n = array.shape
        width = min(n, self._segment // array.itemsize)
        segments = -(-n // width)
        slots = min(self._slots, len(routes.received) * segments)
        items = (slots + b + 1) * width
        if len(self._scratch) < items * array.itemsize:
            self._scratch = np.empty(items * array.itemsize, np.uint8)
        whole = self._scratch[: items * array.itemsize].view(array.dtype).reshape(-1, width)
        return _Memory(segments, whole[:slots], whole[slots:-1], whole[-1])


class _Memory:
    """``segments``: how many there are; ``slots`` for those that arrive, ``mixed`` (B, width) for the
    results of a column, ``product`` (width,).
    """

    def __init__(self, segments: int, slots: Floats, mixed: Floats, product: Floats) -> None:
        self.segments, self.slots, self.mixed, self.product = segments, slots, mixed, product


class _Step:
    """One mixing of ``rows`` (B, n), column of segments by column.

    No rank can wait for ever: it takes in all of a column before it waits for what it sent of it, and has
    sent that before it takes anything in.
    """

    def __init__(
        self, transport: Transport, routes: Routes, rows: Floats, sound: Sequence[bool], memory: _Memory
    ) -> None:
        self._transport, self._routes, self._rows, self._sound = transport, routes, rows, list(sound)
        self._memory, self._good = memory, np.flatnonzero(sound)
        self._columns = cut(rows.shape[1], memory.segments)
        self._weights = _Weights(local_weights(routes.weights, self._sound), self._good, rows.dtype)
        self._receives: deque[tuple[Floats, Request]] = deque()
        self._sends: deque[list[Request]] = deque()
        self._posted = 0

    def run(self) -> None:
        sources = len(self._routes.received)
        leaving = sum(len(sent.ranks) for sent in self._routes.sent)
        ahead = max(2, len(self._memory.slots) // max(sources, 1) if sources else _MOST // max(leaving, 1))
        under_way = kept_if_it_fails(self._rows, self._memory, self._receives, self._sends)
        # What is made of a row that is left out is not looked at.
        with under_way, np.errstate(over="ignore", invalid="ignore"):
            for _ in self._memory.slots:
                self._expect()
            for column in self._columns[:ahead]:
                self._send(column)
            for c, column in enumerate(self._columns):
                self._mix(column)
                if c + ahead < len(self._columns):
                    self._send(self._columns[c + ahead])

    def _expect(self) -> None:
        """Posts the next receive, if there is one, where the oldest was."""
        column, source = divmod(self._posted, len(self._routes.received))
        if column == len(self._columns):
            return
        slot = self._memory.slots[self._posted % len(self._memory.slots)][: length(self._columns[column])]
        slot[0] = np.nan  # and still so after an empty message
        request = self._transport.irecv(slot, self._routes.received[source].rank, TAG)
        self._receives.append((slot, request))
        self._posted += 1

    def _send(self, column: slice) -> None:
        self._sends.append(
            [
                self._transport.isend(
                    self._rows[sent.row, column if self._sound[sent.row] else slice(0)], rank, TAG
                )
                for sent in self._routes.sent
                for rank in sent.ranks
            ]
        )

    def _mix(self, column: slice) -> None:
        block, mixed = self._rows[:, column], self._memory.mixed[:, : length(column)]
        self._weights.apply(block, mixed)
        for source in self._routes.received:
            slot, request = self._receives[0]
            settle(request)
            self._add(source, slot, block, mixed)
            self._receives.popleft()
            self._expect()
        settle(*self._sends[0])
        self._sends.popleft()
        if len(self._good) == len(block):
            block[:] = mixed
        else:
            block[self._good] = mixed[self._good]

    def _add(self, source: Received, slot: Floats, block: Floats, mixed: Floats) -> None:
        product, here = self._memory.product[: len(slot)], not np.isnan(slot[0])
        for row, weight in source.targets:
            np.multiply(slot if here else block[row], weight, out=product)
            np.add(mixed[row], product, out=mixed[row])


class _Weights:
    """``weights`` (B, B) of the rows hosted here, of which only the ``good`` ones are looked at."""

    def __init__(self, weights: NDArray[np.float64], good: NDArray[np.intp], dtype: np.dtype[Any]) -> None:
        self._weights, self._good = weights.astype(dtype), good
        # Products of few rows at a time where most of the matrix is 0.
        sparse = np.count_nonzero(weights) * _SPARSE < weights.size or len(good) < len(weights)
        self._rows = [(b, np.flatnonzero(weights[b])) for b in good] if sparse else None

    def apply(self, block: Floats, out: Floats) -> None:
        """out = weights @ block, for the good rows."""
        if len(block) == 1:
            np.multiply(block, self._weights[0, 0], out=out)
        elif self._rows is None:
            np.matmul(self._weights, block, out=out)
        else:
            for b, sources in self._rows:
                np.matmul(self._weights[b, sources], block[sources], out=out[b])
