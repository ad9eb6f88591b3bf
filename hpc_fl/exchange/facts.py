"""What every rank tells every other one about its parties' round: five numbers."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.collectives import allgather_bytes_sent
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger

_FACTS: Final = 5


class Facts:
    """By rank: ``sums`` (P, 3), the weight, the weighted loss and the number of the parties that entered;
    ``left_out`` (P,), how many did not; ``stop``: whether some rank asks all to stop.
    """

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._transport, self._ledger = transport, ledger
        self._table = np.zeros((transport.size, _FACTS))

    def tell(self, sums: NDArray[np.float64], left_out: int, stop: bool) -> None:
        """Tells this rank's, and learns the others'. Every rank must call it."""
        mine = np.array([*sums, left_out, float(stop)])
        self._transport.allgather(mine, self._table)
        self._ledger.add("headers", allgather_bytes_sent(mine.nbytes, self._transport.size))

    @property
    def sums(self) -> NDArray[np.float64]:
        return self._table[:, :3]

    @property
    def left_out(self) -> NDArray[np.float64]:
        return self._table[:, 3]

    @property
    def stop(self) -> bool:
        return bool(self._table[:, 4].any())
