"""What the allreduces written in Python share: their checks, their queue, their messages."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.collective import Handle
from hpc_fl.collectives.lane import Lane
from hpc_fl.comm.buffers import host_array, unusable
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.telemetry.ledger import Ledger

Floats: TypeAlias = NDArray[np.float32]

TAG: Final = 0x4446
"""Of all messages of these algorithms, so that they meet no others of the same transport."""

_WITHOUT_NAP: Final = 5
_FIRST_NAP: Final = 10e-6
_LONGEST_NAP: Final = 100e-6
_LOOKS: Final = 700
"""Which take a tenth of a second."""

_abandoned: Final[list[object]] = []


class Algorithm(ABC):
    """An allreduce made of messages; see :class:`Collective`, which all of them are.

    Takes CPU tensors of float32 and raises :class:`TransportError` for others. ``start`` runs in the
    ``lane`` (one of its own unless given), after all that was started there before. The ledger is charged
    exactly the bytes of the messages, as "allreduce".
    """

    name: str

    def __init__(self, transport: Transport, ledger: Ledger, lane: Lane | None = None) -> None:
        self._transport, self._ledger = transport, ledger
        self._lane = Lane(self.name) if lane is None else lane

    def allreduce(self, buffer: Tensor) -> None:
        array = floats(buffer)
        self._lane.run(lambda: self._sum(array))

    def start(self, buffer: Tensor) -> Handle:
        array = floats(buffer)
        return self._lane.submit(lambda: self._sum(array))

    @abstractmethod
    def _sum(self, array: Floats) -> None:
        """Sums ``array`` (n,) in place over the ranks, and charges the ledger."""

    def _send(self, part: NDArray[Any], dest: int) -> Request | None:
        return self._transport.isend(part, dest, TAG) if len(part) else None

    def _receive(self, part: NDArray[Any], source: int) -> Request | None:
        return self._transport.irecv(part, source, TAG) if len(part) else None


def floats(buffer: Tensor) -> Floats:
    """The memory of a CPU tensor of float32, flat. Raises :class:`TransportError` for anything else."""
    array = host_array(buffer, written=True)
    if array.dtype != np.float32:
        raise unusable(buffer, "this allreduce adds float32; convert it with x.float()")
    return array.reshape(-1)


def settle(*requests: Request | None) -> None:
    """Returns when all are complete; None stands for an empty message, which is not sent.

    Polls with naps, which grow: at 1 Gbit/s MPI need not look more often, and ranks that look all the time
    take the cores from those that add. What takes long is waited for as the transport does it.
    """
    for request in requests:
        if request is None:
            continue
        looks, nap = 0, _FIRST_NAP
        while not request.done():
            looks += 1
            if looks > _LOOKS:
                request.wait()
                break
            if looks > _WITHOUT_NAP:
                time.sleep(nap)
                nap = min(2 * nap, _LONGEST_NAP)


@contextmanager
def kept_if_it_fails(*under_way: object) -> Iterator[None]:
    """After a failure MPI may still use the buffers of ``under_way``: they are then kept for good."""
    try:
        yield
    except BaseException:
        _abandoned.append(under_way)
        raise


def cut(n: int, parts: int) -> Sequence[slice]:
    """0 to n in ``parts`` slices, whose lengths differ by one at most."""
    return [slice(i * n // parts, (i + 1) * n // parts) for i in range(parts)]


def length(part: slice) -> int:
    """The elements of a slice."""
    n: int = part.stop - part.start
    return n
