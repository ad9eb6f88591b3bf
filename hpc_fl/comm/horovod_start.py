"""Horovod itself: whether it is there, and its start in this process.

Horovod runs a thread of its own in each rank. Every cycle (1 ms, HOROVOD_CYCLE_TIME) these threads agree by
name on the operations that all ranks have asked for, and carry them out: with NCCL on GPUs, MPI on CPUs.
"""

import os
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.comm.horovod_requests import failed
from hpc_fl.errors import ConfigError, TransportError

if TYPE_CHECKING:
    from mpi4py import MPI

_INSTALL: Final = "run: bash scripts/install_horovod.sh"


def load_horovod() -> Any:
    """The module horovod.torch (imports torch). Raises ConfigError where it is missing or does not load."""
    try:
        import horovod.torch
    except (ImportError, OSError) as error:  # OSError: built for another torch or MPI
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"comm.transport: got 'horovod', which cannot be loaded ({why}); {_INSTALL}"
        ) from None
    if not horovod.torch.mpi_built():
        raise ConfigError(f"comm.transport: got 'horovod', which was built without MPI; {_INSTALL}")
    return horovod.torch


def start_horovod(comm: "MPI.Comm") -> Any:
    """Start Horovod on a duplicate of `comm` and return horovod.torch (collective).

    Raises ConfigError where Horovod cannot be loaded or MPI has no MPI_THREAD_MULTIPLE, TransportError where
    it runs already: a process has one.
    """
    from mpi4py import MPI

    hvd = load_horovod()
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise ConfigError(
            "comm.transport: got 'horovod', which calls MPI from a thread of its own, but MPI was started "
            "without MPI_THREAD_MULTIPLE; leave mpi4py's default thread level, or take an MPI that has it"
        )
    if hvd.is_initialized():
        raise TransportError(
            "Horovod runs in this process already: close the transport that started it, or call shutdown()"
        )
    # Fusion would join what happens to be under way, and round the sums otherwise from run to run.
    os.environ.setdefault("HOROVOD_FUSION_THRESHOLD", "0")
    try:
        hvd.init(comm=comm, process_sets="dynamic")
    except ValueError as error:
        raise failed("Horovod's start", error) from None
    return hvd
