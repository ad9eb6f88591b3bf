"""Memory that the ranks of one machine share.

A file in memory that has no name any more once all have opened it, rather than a window of MPI's: Open MPI
5.0.11 prints a warning on every rank for each of those, and ranks that are threads, or whose device tensors
are staged, have none.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

from hpc_fl.collectives.algorithm import Floats
from hpc_fl.comm.control import broadcast_bytes
from hpc_fl.comm.transport import Transport

_FOLDER: Final = Path("/dev/shm")


def open_window(transport: Transport, nbytes: int, folder: Path = _FOLDER) -> Floats | None:
    """The same ``nbytes`` bytes of zeros for all ranks, as float32; None on all when one cannot open them.

    Every rank must call it. The memory is given back when the last rank has dropped its array.
    """
    fd, path = _make(folder, nbytes) if transport.rank == 0 else (-1, Path())
    told = broadcast_bytes(transport, os.fsencode(path) if transport.rank == 0 else None)
    if transport.rank != 0:
        fd = _open(Path(os.fsdecode(told)))
    memory = mmap.mmap(fd, nbytes) if fd >= 0 else None
    if fd >= 0:
        os.close(fd)
    opened = np.array([memory is not None], np.int64)
    transport.allreduce(opened, "min")
    if transport.rank == 0:
        path.unlink(missing_ok=True)
    return np.frombuffer(memory, np.float32) if memory is not None and opened[0] else None


def _make(folder: Path, nbytes: int) -> tuple[int, Path]:
    """A new file with all its memory, and its path; -1 where there is none to be had."""
    try:
        fd, name = tempfile.mkstemp(prefix="hpc_fl-", dir=folder)
    except OSError:
        return -1, folder / "none"
    try:
        os.posix_fallocate(fd, 0, nbytes)  # without it, a full folder would end the process at a write
    except OSError:
        os.close(fd)
        return -1, Path(name)
    return fd, Path(name)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR)
    except OSError:
        return -1
