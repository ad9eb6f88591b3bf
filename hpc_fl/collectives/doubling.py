"""Allreduce by recursive doubling: few steps, for messages so small that only their number counts.

Thakur, Rabenseifner, Gropp: Optimization of Collective Communication Operations in MPICH, 2005.
Of six ranks::

    fold        1 -> 0, 3 -> 2          0, 2, 4, 5 go on, as 0 to 3
    distance 1  0 <-> 1   2 <-> 3       each sends its sum and adds the other's
    distance 2  0 <-> 2   1 <-> 3
    unfold      0 -> 1, 2 -> 3
"""

from __future__ import annotations

import numpy as np

from hpc_fl.collectives.algorithm import Algorithm, Floats, kept_if_it_fails
from hpc_fl.collectives.lane import Lane
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger


def doubling_bytes(n: int, ranks: int, rank: int) -> int:
    """Bytes that ``rank`` sends to allreduce ``n`` float32: 4n per step, log2(P) steps; where P is no power
    of two, ranks that are folded send 4n, and those that take them in 4n more than the others.
    """
    steps = ranks.bit_length() - 1
    folded = ranks - (1 << steps)
    if rank >= 2 * folded:
        return 4 * n * steps
    return 4 * n if rank % 2 else 4 * n * (steps + 1)


class Doubling(Algorithm):
    """4n bytes in each of log2(P) steps; see :class:`Algorithm`. Holds n floats as scratch memory.

    Partners add the same two numbers in the same order, so that all ranks have the same bits after each step.
    """

    name = "doubling"

    def __init__(self, transport: Transport, ledger: Ledger, lane: Lane | None = None) -> None:
        super().__init__(transport, ledger, lane)
        self._scratch = np.empty(0, np.float32)

    def _sum(self, array: Floats) -> None:
        rank, ranks = self._transport.rank, self._transport.size
        self._ledger.add("allreduce", doubling_bytes(len(array), ranks, rank))
        if len(self._scratch) < len(array):
            self._scratch = np.empty(len(array), np.float32)
        other = self._scratch[: len(array)]
        active = 1 << (ranks.bit_length() - 1)
        folded = ranks - active
        if rank >= 2 * folded:
            self._double(array, other, rank - folded, active)
        elif rank % 2:
            self._exchange(array, None, rank - 1)
            self._exchange(None, array, rank - 1)
        else:
            self._exchange(None, other, rank + 1)
            np.add(array, other, out=array)
            self._double(array, other, rank // 2, active)
            self._exchange(array, None, rank + 1)

    def _double(self, array: Floats, other: Floats, place: int, active: int) -> None:
        """The steps of the ranks that go on; ``place`` is this one's number among them."""
        folded = self._transport.size - active
        distance = 1
        while distance < active:
            partner = place ^ distance
            self._exchange(array, other, 2 * partner if partner < folded else partner + folded)
            # In the order of ranks: of two NaN, an addition returns the first.
            first, second = (array, other) if place < partner else (other, array)
            np.add(first, second, out=array)
            distance *= 2

    def _exchange(self, sent: Floats | None, received: Floats | None, rank: int) -> None:
        receive = None if received is None else self._receive(received, rank)
        send = None if sent is None else self._send(sent, rank)
        with kept_if_it_fails(self, receive, send):
            for request in (receive, send):
                if request is not None:
                    request.wait()  # without naps, which would take longer than the messages
