"""One short row exchanged with one peer, with as little around the messages as can be.

Of a few kilobytes an exchange takes as long as what is done around it. What can be known before is worked out
once for a row in its place and a matrix; on the wire it is what :class:`hpc_fl.collectives.columns.Columns`
sends, so that a peer may do either.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.algorithm import TAG
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.topology import MixingMatrix

_REMEMBERED: Final = 64


class Swap:
    """x <- w_ii x + w_ij x_j for the only row ``row`` (n,), where one message leaves and one arrives."""

    def __init__(self, transport: Transport, routes: Routes, row: NDArray[Any]) -> None:
        (sent,), (received,) = routes.sent, routes.received
        ((_, weight),) = received.targets
        self._row, self._slot = row, np.empty_like(row)
        self._exchange = transport.sendrecv_init(row, sent.ranks[0], self._slot, received.rank, TAG)
        self._keep, self._take = row.dtype.type(routes.weights[0, 0]), row.dtype.type(weight)
        self._halves = self._keep == self._take == 0.5  # a product less, the same bits
        self.nbytes = row.nbytes

    def run(self) -> bool:
        """Exchanges, and mixes in place. False, with nothing sent: the row may not be finite."""
        row, slot = self._row, self._slot
        if not isfinite(row.dot(row)):
            return False
        slot[0] = np.nan  # and still so after an empty message
        self._exchange()
        if slot[0] != slot[0]:
            slot[:] = row
        if self._halves:
            np.add(row, slot, out=row)
            np.multiply(row, self._keep, out=row)
            return True
        np.multiply(slot, self._take, out=slot)
        np.multiply(row, self._keep, out=row)
        np.add(row, slot, out=row)
        return True


class Swaps:
    """Swaps of one transport by row and matrix, each worked out once."""

    def __init__(self, transport: Transport, most: int) -> None:
        self._transport, self._most = transport, most
        self._known: dict[tuple[object, ...], tuple[Swap, MixingMatrix]] = {}

    def find(self, rows: Tensor, matrix: MixingMatrix) -> Swap | None:
        """The one for ``rows`` (1, n), if it was made before."""
        # Both are held here, so that neither address can become another's.
        known = self._known.get((rows.data_ptr(), rows.numel(), rows.dtype, id(matrix)))
        return None if known is None else known[0]

    def make(self, rows: Tensor, routes: Routes) -> None:
        """For the next call, where one message of at most ``most`` bytes leaves and one arrives."""
        one = len(routes.sent) == len(routes.received) == len(rows) == 1 and len(routes.sent[0].ranks) == 1
        if not (one and rows.is_cpu and 0 < rows.nbytes <= self._most):
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        key = rows.data_ptr(), rows.numel(), rows.dtype, id(routes.matrix)
        swap = Swap(self._transport, routes, rows.detach().numpy()[0])
        self._known[key] = swap, routes.matrix
