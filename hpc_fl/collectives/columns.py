"""Rows mixed column by column: what leaves, what arrives and what is worked on are pieces of columns.

::

    column      0        1        2        3     ...     of all rows hosted here
    sent       done     under way ------------->         to all ranks that need them
    received   done     added    under way ---->         from all sources, in one order
    rows       mixed    (as they were ----------         until what was sent of them has left)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends.short_row import short_row
from hpc_fl.collectives.algorithm import TAG, cut, kept_if_it_fails, length, settle
from hpc_fl.collectives.routes import Received, Routes
from hpc_fl.comm.transport import Request, Transport

Floats = NDArray[Any]

SEGMENT: Final = 1 << 18
"""Bytes of a segment: see :data:`hpc_fl.collectives.ring.SEGMENT`."""
BUDGET: Final = 1 << 24
"""Bytes of the segments that may be on their way here at once, of all sources together."""
_SHORTEST: Final = 1 << 14
_MOST: Final = 512
_SPARSE: Final = 8
_SHORT: Final = 1 << 14
"""Bytes of a row up to which MPI sends a message at once, without asking the receiver."""
_NOTHING: Final = np.empty(0, np.uint8)


class Columns:
    """Mixes rows that are cut into segments of ``segment`` bytes, on all ranks alike.

    None: shorter ones where a rank hosts as many rows as ``most``, so that the segments of all of them are
    worked on in the cache. Holds at most ``BUDGET`` bytes of received segments, whatever the number of
    sources and the length of the rows, and a segment of each row hosted here.
    """

    def __init__(self, transport: Transport, most: int, segment: int | None = None) -> None:
        self._transport = transport
        self.segment = max(_SHORTEST, SEGMENT // max(1, most)) if segment is None else segment
        self._slots = max(1, min(_MOST, BUDGET // self.segment))
        self._scratch = np.empty(0, np.uint8)
        self.short = min(_SHORT, self.segment)
        """Bytes of a row, alone on its rank, up to which it travels in one message."""

    def mix(self, routes: Routes, rows: Floats, outgoing: Sequence[Floats | None], sound: list[bool]) -> None:
        """Overwrites those of ``rows`` (B, n) that are ``sound`` by the mixed ones. Every rank must call it.

        ``outgoing``: what is sent as row b of the routes, by b; None: an empty message, for which takers keep
        its weight themselves.
        """
        if len(rows) == 1 and rows.nbytes <= self.short:
            self._mix_short(routes, rows[0], outgoing, sound[0])
        elif rows.size:
            _Step(self._transport, routes, rows, outgoing, sound, self._memory(rows, routes)).run()

    def _mix_short(self, routes: Routes, row: Floats, outgoing: Sequence[Floats | None], sound: bool) -> None:
        """:meth:`mix` of one short row, with as little around the messages as can be."""
        if not row.size:
            return
        transport = self._transport
        sends = []
        for sent in routes.sent:
            part = outgoing[sent.row]
            part = _NOTHING if part is None else part
            sends += [transport.isend(part, rank, TAG) for rank in sent.ranks]
        with kept_if_it_fails(sends, outgoing):
            mixed = row * routes.weights[0, 0].astype(row.dtype) if sound else row
            slot = np.empty_like(row)
            for source in routes.received:
                slot[0] = np.nan  # and still so after an empty message
                transport.recv(slot, source.rank, TAG)
                if sound:
                    slot = row.copy() if np.isnan(slot[0]) else slot
                    slot *= source.targets[0][1]
                    mixed += slot
            for send in sends:
                send.wait()
        row[:] = mixed

    def _memory(self, rows: Floats, routes: Routes) -> _Memory:
        """Scratch memory for these rows, kept between calls."""
        b, n = rows.shape
        width = min(n, self.segment // rows.itemsize)
        segments = -(-n // width)
        slots = min(self._slots, len(routes.received) * segments)
        items = (slots + b + 1) * width
        if len(self._scratch) < items * rows.itemsize:
            self._scratch = np.empty(items * rows.itemsize, np.uint8)
        whole = self._scratch[: items * rows.itemsize].view(rows.dtype).reshape(-1, width)
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
        self,
        transport: Transport,
        routes: Routes,
        rows: Floats,
        outgoing: Sequence[Floats | None],
        sound: list[bool],
        memory: _Memory,
    ) -> None:
        self._transport, self._routes, self._rows, self._outgoing = transport, routes, rows, outgoing
        self._memory, self._good = memory, np.flatnonzero(sound)
        self._columns = cut(rows.shape[1], memory.segments)
        self._weights = _Weights(kept_by_takers(routes.weights, sound), self._good, rows.dtype)
        self._receives: deque[tuple[Floats, Request]] = deque()
        self._sends: deque[list[Request]] = deque()
        self._posted = 0
        self._alone = len(rows) == len(routes.received) == len(self._good) == 1

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
        sends = []
        for sent in self._routes.sent:
            row = self._outgoing[sent.row]
            part = _NOTHING if row is None else row[column]
            sends += [self._transport.isend(part, rank, TAG) for rank in sent.ranks]
        self._sends.append(sends)

    def _mix(self, column: slice) -> None:
        if self._alone:
            self._mix_one(column)
        else:
            self._mix_several(column)

    def _mix_one(self, column: slice) -> None:
        """Of one row and one source: in one pass, in place."""
        slot, request = self._receives[0]
        settle(request)
        settle(*self._sends[0])
        self._sends.popleft()
        take = self._routes.received[0].targets[0][1]
        around = short_row(self._rows[0, column], slot[np.newaxis], float(self._routes.weights[0, 0]), [take])
        around.mix()
        self._receives.popleft()
        self._expect()

    def _mix_several(self, column: slice) -> None:
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


def kept_by_takers(weights: NDArray[np.float64], sound: list[bool]) -> NDArray[np.float64]:
    """``weights`` (B, B) with those of rows that are not ``sound`` kept by their takers."""
    if all(sound):
        return weights
    kept, bad = weights.copy(), np.flatnonzero(~np.array(sound))
    kept[np.diag_indices(len(kept))] += kept[:, bad].sum(1)
    kept[:, bad] = 0
    return kept
