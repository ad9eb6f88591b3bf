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


def open_shared(transport: Transport, nbytes: int, folder: Path = _FOLDER) -> Floats | None:
    """The same ``nbytes`` bytes of zeros for all ranks, as float32; None on all when one cannot open them.

    Every rank must call it. The memory is given back when the last rank has dropped its array.
    """
    path, memory = _make(folder, nbytes) if transport.rank == 0 else (b"", None)
    told = broadcast_bytes(transport, path if transport.rank == 0 else None)
    if transport.rank != 0 and told:
        memory = _open(told, nbytes)
    opened = np.array([memory is not None], np.int64)
    transport.allreduce(opened, "min")
    if path:
        Path(os.fsdecode(path)).unlink()
    return np.frombuffer(memory, np.float32) if memory is not None and opened[0] else None


def _make(folder: Path, nbytes: int) -> tuple[bytes, mmap.mmap | None]:
    """A new file and its memory, all of it there; nothing where there is none to be had."""
    try:
        fd, name = tempfile.mkstemp(prefix="hpc_fl-", dir=folder)
    except OSError:
        return b"", None
    try:
        os.posix_fallocate(fd, 0, nbytes)  # without it, a full folder would end the process at a write
        return os.fsencode(name), mmap.mmap(fd, nbytes)
    except OSError:
        Path(name).unlink()
        return b"", None
    finally:
        os.close(fd)


def _open(path: bytes, nbytes: int) -> mmap.mmap | None:
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return mmap.mmap(fd, nbytes)
    except (OSError, ValueError):  # another file of that name, and shorter, on a machine of its own
        return None
    finally:
        os.close(fd)
