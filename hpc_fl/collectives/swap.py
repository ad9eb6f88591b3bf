"""One short row exchanged with one peer, with as little around the messages as can be.

Of a few kilobytes an exchange takes as long as what is done around it. What can be known before is worked out
once for a row in its place and a matrix; on the wire it is what :class:`hpc_fl.collectives.columns.Columns`
sends, so that a peer may do either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, nan
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.algorithm import TAG
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.topology import MixingMatrix

_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class Swap:
    """x <- w_ii x + w_ij x_j for the only row (1, n) of a rank, at ``address``, where one message leaves
    and one arrives. ``run()``: False, with nothing sent, where the row may not be finite.
    """

    matrix: MixingMatrix
    address: int
    elements: int
    nbytes: int
    run: Callable[[], bool]


class Swaps:
    """Swaps of one transport by matrix, each worked out once for the rows of the last call."""

    def __init__(self, transport: Transport, most: int) -> None:
        self._transport, self._most = transport, most
        self._known: dict[int, Swap] = {}

    def find(self, rows: Tensor, matrix: MixingMatrix) -> Swap | None:
        """The one for these rows in this place, if it was made before."""
        swap = self._known.get(id(matrix))  # which is its own as long as the swap holds it
        if swap is None or rows.data_ptr() != swap.address or rows.numel() != swap.elements:
            return None
        return swap

    def make(self, rows: Tensor, routes: Routes) -> None:
        """For the next call, where one message of at most ``most`` bytes leaves and one arrives."""
        one = len(routes.sent) == len(routes.received) == len(rows) == 1 and len(routes.sent[0].ranks) == 1
        if not (one and rows.is_cpu and 0 < rows.nbytes <= self._most):
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        # It holds the row's memory, which so cannot become another's.
        run = _prepared(self._transport, routes, rows.detach().numpy()[0])
        swap = Swap(routes.matrix, rows.data_ptr(), rows.numel(), rows.nbytes, run)
        self._known[id(routes.matrix)] = swap


def _prepared(transport: Transport, routes: Routes, row: NDArray[Any]) -> Callable[[], bool]:
    """The steps of an exchange; each name in them is looked up once, here."""
    (sent,), (received,) = routes.sent, routes.received
    ((_, weight),) = received.targets
    slot = np.empty_like(row)
    exchange = transport.sendrecv_init(row, sent.ranks[0], slot, received.rank, TAG)
    square, add, multiply = row.dot, np.add, np.multiply
    first = cast("Any", memoryview(slot.data))
    keep, take = (np.array(w, row.dtype) for w in (routes.weights[0, 0], weight))
    halves = keep == take == 0.5  # a product less, the same bits

    def run() -> bool:
        if not square(row) < inf:
            return False
        first[0] = nan  # and still so after an empty message
        exchange()
        if first[0] != first[0]:
            slot[:] = row
        if halves:
            add(row, slot, row)
            multiply(row, keep, row)
            return True
        multiply(slot, take, slot)
        multiply(row, keep, row)
        add(row, slot, row)
        return True

    return run
