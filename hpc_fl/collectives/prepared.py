"""One short row exchanged with few neighbours, with as little around the messages as can be.

Of a few kilobytes an exchange takes as long as what is done around it. What can be known before is worked out
once for a row in its place and a matrix; on the wire it is what :class:`hpc_fl.collectives.columns.Columns`
sends, so that a neighbour may do either.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.backends.short_row import short_row
from hpc_fl.collectives.algorithm import TAG
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.topology import MixingMatrix

_REMEMBERED: Final = 64
_MOST: Final = 8
"""Messages, each way, up to which an exchange is prepared: what that holds for every one stays small."""


class PreparedMix:
    """x <- w_ii x + w_ij x_j + ... for the only row of a rank, ``row`` (n,) in its place, by ``routes``."""

    __slots__ = ("_exchange", "_mix", "_ready", "_travel", "address", "elements", "matrix", "nbytes")

    def __init__(self, transport: Transport, routes: Routes, row: NDArray[Any]) -> None:
        slots = np.empty((len(routes.received), row.size), row.dtype)
        takes = [source.targets[0][1] for source in routes.received]
        around = short_row(row, slots, float(routes.weights[0, 0]), takes)
        self._exchange = transport.persistent(
            [(row, rank) for sent in routes.sent for rank in sent.ranks],
            [(slot, source.rank) for slot, source in zip(slots, routes.received, strict=True)],
            TAG,
        )
        self._ready, self._travel, self._mix = around.ready, self._exchange.run, around.mix
        self.matrix, self.nbytes = routes.matrix, row.nbytes * _messages(routes)
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


class PreparedMixes:
    """Those of one transport by matrix, each made once for the rows of the last call; rows of at most
    ``most`` bytes.
    """

    def __init__(self, transport: Transport, most: int) -> None:
        self._transport, self._most = transport, most
        self._known: dict[int, PreparedMix] = {}

    def find(self, rows: Tensor, matrix: MixingMatrix) -> PreparedMix | None:
        """The one for these rows in this place, if it was made before."""
        mix = self._known.get(id(matrix))  # which is its own as long as the mix holds it
        if mix is None or rows.data_ptr() != mix.address or rows.numel() != mix.elements:
            return None
        return mix

    def make(self, rows: Tensor, routes: Routes) -> None:
        """For the next call, if it can be: where few messages leave and arrive for one short row."""
        few = 0 < max(_messages(routes), len(routes.received)) <= _MOST
        if not (few and len(rows) == 1 and rows.is_cpu and 0 < rows.nbytes <= self._most):
            return
        if len(self._known) >= _REMEMBERED:
            self.close()
        if old := self._known.pop(id(routes.matrix), None):
            old.close()
        self._known[id(routes.matrix)] = PreparedMix(self._transport, routes, rows.detach().numpy()[0])

    def close(self) -> None:
        """Forgets them all, which are made anew when they are wanted."""
        while self._known:
            self._known.popitem()[1].close()


def _messages(routes: Routes) -> int:
    """How many leave."""
    return sum(len(sent.ranks) for sent in routes.sent)
