"""One short row exchanged with one peer, with as little around the messages as can be.

Of a few kilobytes an exchange takes as long as what is done around it. What can be known before is worked out
once for a row in its place and a matrix; on the wire it is what :class:`hpc_fl.collectives.columns.Columns`
sends, so that a peer may do either.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.backends.pair import pair_of
from hpc_fl.collectives.algorithm import TAG
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.topology import MixingMatrix

_REMEMBERED: Final = 64


class Swap:
    """x <- w_ii x + w_ij x_j for the only row of a rank, ``row`` (n,) in its place, where by ``routes`` one
    message leaves and one arrives.
    """

    __slots__ = ("_exchange", "_mix", "_ready", "_travel", "address", "elements", "matrix", "nbytes")

    def __init__(self, transport: Transport, routes: Routes, row: NDArray[Any]) -> None:
        (sent,), (received,) = routes.sent, routes.received
        ((_, weight),) = received.targets
        slot = np.empty_like(row)
        pair = pair_of(row, slot, float(routes.weights[0, 0]), float(weight))
        self._exchange = transport.sendrecv_init(row, sent.ranks[0], slot, received.rank, TAG)
        self._ready, self._travel, self._mix = pair.ready, self._exchange.run, pair.mix
        self.matrix, self.nbytes = routes.matrix, row.nbytes
        # It holds the row's memory, which so cannot become another's.
        self.address, self.elements = row.ctypes.data, row.size

    def run(self) -> bool:
        """False, with nothing sent, where the row is not finite."""
        if not self._ready():
            return False
        self._travel()
        self._mix()
        return True

    def close(self) -> None:
        """Frees what the transport prepared."""
        self._exchange.close()


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
            self.close()
        if old := self._known.pop(id(routes.matrix), None):
            old.close()
        self._known[id(routes.matrix)] = Swap(self._transport, routes, rows.detach().numpy()[0])

    def close(self) -> None:
        """Forgets them all, which are made anew when they are wanted."""
        while self._known:
            self._known.popitem()[1].close()
