"""Start and end of a run's ranks: who launched them, which transport, how many threads, what a failure does.

Imports the standard library only at its top, so that a launcher that asks `launched()` starts fast.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hpc_fl.comm import defaults
from hpc_fl.comm.allocator import keep_freed_memory
from hpc_fl.comm.cores import available_cores
from hpc_fl.comm.guard import guard
from hpc_fl.comm.rollcall import sign_in
from hpc_fl.comm.stop import StopSignals
from hpc_fl.errors import ConfigError

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpc_fl.comm.transport import Transport

__all__ = [
    "TRANSPORTS", "Launch", "StopSignals", "available_cores", "check_installed", "guard", "launched",
    "set_threads", "start",
]  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """Who started this process as one of several ranks, and which one it is."""

    by: str
    rank: int
    size: int


_LAUNCHERS: Final = (
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),
    ("mpiexec", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
_SLURM_RESERVED_STEPS: Final = 0xFFFFFFF0
"""Steps from here on are Slurm's own: the batch script, the shell of salloc."""


def launched() -> Launch | None:
    """The launcher that started this process, from environment variables; None when started by hand.

    A program started by srun counts; the script of sbatch and the shell of salloc do not.
    """
    for by, rank, size in _LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return Launch(by, int(os.environ[rank]), int(os.environ[size]))
    step = os.environ.get("SLURM_STEP_ID", "")
    if step.isdecimal() and int(step) < _SLURM_RESERVED_STEPS:
        return Launch("srun", int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_STEP_NUM_TASKS"]))
    return None


_INSTALL: Final = {"horovod": "bash scripts/install_horovod.sh"}
"""What installs the package that a transport is named after, for those that need one."""

HEARS_OF_DEATHS: Final = frozenset(("mpi",))
"""Transports that can name ranks that died, under ULFM. Horovod says no more than that it has been shut down:
there mpirun, which names the rank, is better left to end the job.
"""


def check_installed(transport: str) -> None:
    """Raise ConfigError where `transport` needs a package that is not installed; imports nothing."""
    if transport in _INSTALL and find_spec(transport) is None:
        raise ConfigError(
            f"comm.transport: got {transport!r}, which is not installed; run: {_INSTALL[transport]}"
        )


def start(
    comm: "MPI.Comm | None" = None, timeout: float | None = None, transport: str = "mpi"
) -> "Transport":
    """The transport of this run: over `comm`, or MPI's world when launched as one of its ranks, else `solo`.

    `transport`: "mpi" or "horovod"; a process that runs alone has no use for either. Device tensors are
    staged through host memory where a GPU is present and the transport cannot take them. Freed memory stays
    with the process from now on (:mod:`hpc_fl.comm.allocator`). Collective: every rank must call it.

    `timeout`: see MpiTransport. Raises ConfigError where Horovod is asked for and missing, and when the
    launcher started more ranks than MPI sees: then they do not understand each other.
    """
    keep_freed_memory()
    launch = launched()
    if comm is None and launch is None:
        from hpc_fl.comm.inprocess import solo

        return solo()
    defaults.prepare()
    from mpi4py import MPI

    if launch is not None:
        sign_in(launch.rank)
    world = MPI.COMM_WORLD if comm is None else comm
    if comm is None and launch is not None and launch.size != world.Get_size():
        raise ConfigError(
            f"{launch.by} started {launch.size} ranks, {MPI.get_vendor()[0]} sees {world.Get_size()}: use "
            "the mpirun of the MPI that mpi4py uses (inside sbatch too), or srun --mpi=pmix where it works"
        )
    check_installed(transport)
    return TRANSPORTS[transport](world, timeout)


def _over_mpi(comm: "MPI.Comm", timeout: float | None) -> "Transport":
    from hpc_fl.comm.mpi import MpiTransport
    from hpc_fl.comm.staging import StagedTransport, mpi_takes_device_memory

    if not _gpu_present():
        return MpiTransport(comm, timeout)
    if mpi_takes_device_memory():
        return MpiTransport(comm, timeout, direct_device=True)
    return StagedTransport(MpiTransport(comm, timeout))


def _over_horovod(comm: "MPI.Comm", timeout: float | None) -> "Transport":
    from hpc_fl.comm.horovod_start import load_horovod

    with_nccl = bool(load_horovod().nccl_built())  # before anything that has to be undone

    from hpc_fl.comm.horovod import HorovodTransport
    from hpc_fl.comm.mpi import MpiTransport
    from hpc_fl.comm.staging import StagedTransport

    if not _gpu_present():
        return HorovodTransport(comm, MpiTransport(comm, timeout), timeout)
    if with_nccl:
        return HorovodTransport(comm, _over_mpi(comm, timeout), timeout, direct_device=True)
    return StagedTransport(HorovodTransport(comm, MpiTransport(comm, timeout), timeout))


TRANSPORTS: "Final[dict[str, Callable[[MPI.Comm, float | None], Transport]]]" = {
    "mpi": _over_mpi,
    "horovod": _over_horovod,
}
"""What carries a run, by the name that comm.transport has for it."""


def _gpu_present() -> bool:
    return Path("/dev/nvidiactl").exists()


def set_threads(transport: "Transport", threads: int | None) -> int:
    """Set the threads of torch and OpenMP in this process, and return their number.

    `threads`, else OMP_NUM_THREADS of the environment, else this rank's share: the cores it may use,
    divided by the ranks on the same machine that may use the same ones. With torch not yet imported it is
    left in the environment, where torch will find it. Collective: every rank must call it.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads: {threads} given, 1 or more expected")
    share = _share_of_cores(transport)
    said = os.environ.get("OMP_NUM_THREADS", "")
    number = threads or (int(said) if said.isdecimal() and int(said) > 0 else share)
    torch = sys.modules.get("torch")
    if torch is None:
        os.environ["OMP_NUM_THREADS"] = str(number)
    else:
        torch.set_num_threads(number)
    return number


def _share_of_cores(transport: "Transport") -> int:
    """Cores of this rank over the ranks with the same cores of the same machine."""
    import numpy as np

    place = f"{os.uname().nodename} {sorted(os.sched_getaffinity(0))}"
    mine = np.frombuffer(blake2b(place.encode(), digest_size=8).digest(), np.int64)
    places = np.zeros(transport.size, np.int64)
    transport.allgather(mine, places)
    sharing = int((places == mine[0]).sum())
    return max(1, available_cores() // sharing)
