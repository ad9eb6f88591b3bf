"""Allreduce round a ring: every rank adds to what it gets from the left and passes it to the right.

Patarasuk, Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009. The buffer is cut
into P chunks. Of three ranks, chunks that travel at each step (``+``: added on arrival)::

    step   0 -> 1   1 -> 2   2 -> 0
    0        0+       1+       2+
    1        2+       0+       1+      rank r now has the whole sum of chunk r + 1
    2        1        2        0
    3        0        1        2

Chunks travel in segments, several at once: a segment is added, and passed on, while those behind it are on
their way. So every link is busy in both directions from the first step to the last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.collectives.algorithm import Algorithm, Floats, cut, kept_if_it_fails, length, settle
from hpc_fl.collectives.lane import Lane
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.telemetry.ledger import Ledger

SEGMENT: Final = 1 << 16
"""Elements of a segment: 256 KB. Its addition stays in the cache; a message costs 20 us, and travels 2 ms at
1 Gbit/s. (Four hosts at 1 Gbit/s, 25 million elements, medians of four: 1.252 s with 512 KB and 16 under way,
1.242 s with 32, 1.234 s with 256 KB and 64.)
"""

AHEAD: Final = 64
"""Segments under way at once, each way: 16 MB are 134 ms at 1 Gbit/s, in which a neighbour may be late."""


def ring_bytes(n: int, ranks: int, rank: int, itemsize: int = 4) -> int:
    """Bytes that ``rank`` sends to allreduce ``n`` elements: each chunk twice, but for two of them once.

    On average over the ranks 2 (P-1)/P * n * itemsize.
    """
    chunks = cut(n, ranks)
    once = [chunks[(rank + i) % ranks] for i in (1, 2)]
    return itemsize * (2 * n - sum(length(chunk) for chunk in once))


@dataclass(frozen=True)
class Course:
    """Which segment travels when; item k is segment ``k % segments`` of step ``k // segments``."""

    n: int
    ranks: int
    rank: int
    segments: int
    _chunks: list[list[slice]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        chunks = [
            [slice(c.start + s.start, c.start + s.stop) for s in cut(length(c), self.segments)]
            for c in cut(self.n, self.ranks)
        ]
        object.__setattr__(self, "_chunks", chunks)

    @property
    def added(self) -> int:
        """The items before this one are added on arrival, the others are final."""
        return (self.ranks - 1) * self.segments

    @property
    def items(self) -> int:
        """How many segments a rank sends, and receives."""
        return 2 * self.added

    def sent(self, item: int) -> slice:
        """The elements of the buffer that leave as this item."""
        step, segment = divmod(item, self.segments)
        return self._chunks[(self.rank - step) % self.ranks][segment]

    def received(self, item: int) -> slice:
        """Those that arrive as this item; they leave again one step later."""
        return self.sent(item + self.segments)


class Ring(Algorithm):
    """2 (P-1)/P * 4n bytes, in 2 (P-1) steps; see :class:`Algorithm`.

    Holds ``ahead`` segments of ``segment`` elements as scratch memory, whatever the size of the buffer.
    """

    name = "ring"
    itemsize: ClassVar[int] = 4
    """Bytes of an element on the wire."""

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        lane: Lane | None = None,
        *,
        segment: int = SEGMENT,
        ahead: int = AHEAD,
    ) -> None:
        super().__init__(transport, ledger, lane)
        self._segment, self._ahead = segment, ahead
        self._scratch: list[Floats] = []

    def _sum(self, array: Floats) -> None:
        transport = self._transport
        if transport.size == 1:
            return
        chunk = -(-len(array) // transport.size)
        # A chunk of a few segments at least, or neighbours would wait for each other at every step.
        segments = max(1, -(-chunk // self._segment), min(self._ahead, chunk * 4 // self._segment))
        course = Course(len(array), transport.size, transport.rank, segments)
        self._ledger.add("allreduce", ring_bytes(len(array), transport.size, transport.rank, self.itemsize))
        self._go_round(array, course, min(self._ahead, segments))

    def _go_round(self, array: Floats, course: Course, ahead: int) -> None:
        left, right = (course.rank - 1) % course.ranks, (course.rank + 1) % course.ranks
        receives: deque[Request | None] = deque()
        sends: deque[Request | None] = deque()

        def begin(item: int) -> None:
            target = self._target(array, course, item)
            receives.append(self._receive(target, left))
            sends.append(self._send(self._source(array, course, item), right))

        # A segment leaves a step after it arrived, which is ``ahead`` items later or more. It is received
        # where it was sent from, P - 1 steps earlier: that message is settled by then.
        with kept_if_it_fails(self, receives, sends):
            for item in range(ahead):
                begin(item)
            for item in range(course.items):
                settle(receives[0])
                self._arrived(array, course, item)
                settle(sends[0])
                receives.popleft(), sends.popleft()
                if item + ahead < course.items:
                    begin(item + ahead)

    def _target(self, array: Floats, course: Course, item: int) -> NDArray[Any]:
        """Where an item is received: what is final, where it belongs."""
        part = course.received(item)
        return self._slot(item, part) if item < course.added else array[part]

    def _source(self, array: Floats, course: Course, item: int) -> NDArray[Any]:
        """What is sent as an item."""
        return array[course.sent(item)]

    def _arrived(self, array: Floats, course: Course, item: int) -> None:
        if item < course.added:
            part = course.received(item)
            mine = array[part]
            np.add(mine, self._slot(item, part), out=mine)

    def _slot(self, item: int, part: slice) -> NDArray[Any]:
        """Scratch memory for an item under way; used again ``ahead`` items later."""
        if not self._scratch:
            self._scratch = [np.empty(self._segment, np.float32) for _ in range(self._ahead)]
        return self._scratch[item % self._ahead][: length(part)]
