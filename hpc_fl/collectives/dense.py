"""Allreduce of the whole buffer as float32, by the MPI library's own algorithm."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hpc_fl.collectives.collective import Handle
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger


def dense_bytes(n: int, ranks: int, itemsize: int = 4) -> int:
    """Bytes that one rank sends to allreduce ``n`` elements: 2 (P-1)/P * n * itemsize, the ring's (rounded
    up).

    Patarasuk, Yuan: Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009. No algorithm
    sends less.
    """
    return -(-2 * (ranks - 1) * n * itemsize // ranks)


class DenseAllreduce:
    """The sum by :meth:`Transport.allreduce`.

    The ledger is charged the ring's bytes, :func:`dense_bytes`: what MPI really sends is at least that, and
    depends on the algorithm that it chose.
    """

    name: ClassVar[str] = "dense"

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._transport = transport
        self._ledger = ledger

    def allreduce(self, buffer: Tensor) -> None:
        self._charge(buffer)
        self._transport.allreduce(buffer)

    def start(self, buffer: Tensor) -> Handle:
        self._charge(buffer)
        return self._transport.iallreduce(buffer)

    def _charge(self, buffer: Tensor) -> None:
        self._ledger.add(
            "allreduce", dense_bytes(buffer.numel(), self._transport.size, buffer.element_size())
        )
