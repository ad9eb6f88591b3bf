"""Other people's allreduces, in the ranks that run ours: raw MPI, gloo by torch.distributed, and Horovod."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import numpy as np

from hpc_fl.bench.collective_cases import GLOO, HOROVOD, MPI, SENDRECV, Call

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_fl.comm.transport import Transport


@contextmanager
def raw_mpi(_: Transport) -> Iterator[Call]:
    """``MPI.Allreduce`` by mpi4py, in place."""
    from mpi4py import MPI as mpi  # noqa: N811

    comm = mpi.COMM_WORLD.Dup()

    def add(buffer: Tensor) -> None:
        comm.Allreduce(mpi.IN_PLACE, buffer.numpy())

    yield add
    comm.Free()


@contextmanager
def sendrecv(transport: Transport) -> Iterator[Call]:
    """``MPI.Sendrecv`` by mpi4py, of the buffer with the other rank of a pair, into memory of its own: what
    an exchange of two ranks takes at least. Of an even number of ranks.
    """
    from mpi4py import MPI as mpi  # noqa: N811

    comm, peer = mpi.COMM_WORLD.Dup(), transport.rank ^ 1
    known: dict[int, tuple[object, object]] = {}

    def swap(buffer: Tensor) -> None:
        # What torch and NumPy need to describe a buffer is not MPI's to pay.
        there = known.get(buffer.data_ptr())
        if there is None:
            there = known[buffer.data_ptr()] = buffer.numpy(), buffer.clone().numpy()
        comm.Sendrecv(there[0], peer, recvbuf=there[1], source=peer)

    yield swap
    comm.Free()


@contextmanager
def gloo(transport: Transport) -> Iterator[Call]:
    """``torch.distributed`` over TCP, on the lab's network or the loopback; it does not touch MPI."""
    import torch.distributed as dist

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    port = np.zeros(1, np.int64)
    if transport.rank == 0:
        with socket.create_server((address, 0)) as probe:  # a port that is free now
            port[0] = probe.getsockname()[1]
    transport.broadcast(port)
    meeting = f"tcp://{address}:{port[0]}"
    dist.init_process_group("gloo", init_method=meeting, rank=transport.rank, world_size=transport.size)
    yield dist.all_reduce
    dist.destroy_process_group()


@contextmanager
def horovod(_: Transport) -> Iterator[Call]:
    """Horovod with its own settings. Its thread, which looks for work every millisecond and talks about it to
    all ranks, runs in this block only: beside other subjects it would take their cores and count as theirs.
    """
    import horovod.torch as hvd
    from mpi4py import MPI as mpi  # noqa: N811

    hvd.init(comm=mpi.COMM_WORLD)

    def add(buffer: Tensor) -> None:
        hvd.allreduce_(buffer, op=hvd.Sum, name="bench")

    yield add
    hvd.shutdown()


OPEN: Final[Mapping[str, Callable[[Transport], AbstractContextManager[Call]]]] = {
    HOROVOD: horovod,
    GLOO: gloo,
    MPI: raw_mpi,
    SENDRECV: sendrecv,
}
"""Every rank must enter and leave one, and make the same calls in between."""


def installed(peer: str) -> bool:
    """Whether it is there; imports nothing."""
    return peer != HOROVOD or find_spec("horovod") is not None
