"""How fast the present world is: its network, and the kernels of codecs while all ranks compute."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.cost import RANK, RATIO, Kernel, World
from hpc_fl.collectives.link import Link
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, LowRank, OneBit, TopK
from hpc_fl.compression.base import Base
from hpc_fl.compression.codec import Kept

_TAG: Final = 0x5052
_SIDE: Final = 1024
_ELEMENTS: Final = _SIDE * _SIDE
"""1 million, 4 MB an array: more than a core's own cache, and a few milliseconds a call."""
_PINGS: Final = 20
_FEWEST_BYTES: Final = 1 << 14
_MOST_BYTES: Final = 1 << 24
_LONG_ENOUGH: Final = 0.03
"""Seconds; in which 1 Gbit/s moves 4 MB, more than what switches and sockets hold."""
_TIMES: Final = 3
_ENOUGH: Final = 0.03
"""Seconds, after which a kernel is not timed again: on machines that others use as well."""


def measure_world(transport: Transport) -> World:
    """The present world, the same numbers on all ranks: those of the slowest. Every rank must call it.

    Takes less than a second at 1 Mbit/s or more.
    """
    if transport.size == 1:
        return World(1, Link(0.0), _kernels(transport))
    return World(transport.size, Link(_latency(transport), _bandwidth(transport)), _kernels(transport))


def _slowest(transport: Transport, seconds: float) -> float:
    found = np.array([seconds])
    transport.allreduce(found, "max")
    return float(found[0])


def _round_the_ring(
    transport: Transport, out: NDArray[np.uint8], into: NDArray[np.uint8], times: int
) -> float:
    """Seconds of one step in which all ranks send to the right and receive from the left."""
    rank, size = transport.rank, transport.size
    transport.barrier()
    start = time.perf_counter()
    for _ in range(times):
        receive = transport.irecv(into, (rank - 1) % size, _TAG)
        transport.isend(out, (rank + 1) % size, _TAG).wait()
        receive.wait()
    return _slowest(transport, (time.perf_counter() - start) / times)


def _latency(transport: Transport) -> float:
    out, into = np.zeros(8, np.uint8), np.zeros(8, np.uint8)
    return median(_round_the_ring(transport, out, into, _PINGS) for _ in range(_TIMES + 1))


def _bandwidth(transport: Transport) -> float:
    """Bytes a second that a rank sends and receives while all others do."""
    nbytes = _FEWEST_BYTES
    while True:
        out, into = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)  # not zeros: memory that is there
        seconds = _round_the_ring(transport, out, into, 1)
        if seconds >= _LONG_ENOUGH or nbytes >= _MOST_BYTES:
            # Perhaps a rank only had to wait for a core: what takes as long again is the network.
            seconds = min(seconds, *(_round_the_ring(transport, out, into, 1) for _ in range(_TIMES - 1)))
        if seconds >= _LONG_ENOUGH or nbytes >= _MOST_BYTES:
            return nbytes / seconds
        nbytes *= 4


def _kernels(transport: Transport) -> dict[str, Kernel]:
    generator = torch.Generator().manual_seed(transport.rank)
    x, out = torch.randn(_ELEMENTS, generator=generator), torch.zeros(_ELEMENTS)
    adding = _time(transport, lambda: torch.add(out, x, out=out))
    found = {"identity": Kernel(0.0, adding / _ELEMENTS)}
    codecs = (BF16(), OneBit(), TopK(ratio=RATIO), LowRank(RANK, ((_SIDE, _SIDE),)))
    for codec in codecs:
        found[codec.name] = _kernel(transport, codec, x, out)
    return found


def _kernel(transport: Transport, codec: Base, x: Tensor, out: Tensor) -> Kernel:
    """With error feedback where the codec needs it."""
    kept: Kept | None = None
    spares = [torch.zeros_like(x), torch.zeros_like(x)]
    payload = codec.encode(x)

    def encode() -> None:
        nonlocal kept
        if codec.needs_feedback:
            _, kept = codec.encode_keeping(x, kept, spares[0])
            spares.reverse()
        else:
            codec.encode(x)

    encoding = _time(transport, encode)
    decoding = _time(transport, lambda: codec.accumulate(payload, 1.0, out))
    return Kernel(encoding / _ELEMENTS, decoding / _ELEMENTS)


def _time(transport: Transport, work: Callable[[], object]) -> float:
    """The least seconds of a few calls while all ranks do it, after one that does not count."""
    work()
    transport.barrier()
    taken: list[float] = []
    while len(taken) < _TIMES and sum(taken) < _ENOUGH:
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return _slowest(transport, min(taken))
