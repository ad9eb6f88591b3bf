"""Small control data (JSON, names) as bytes over any transport."""

from typing import Any

import numpy as np
import numpy.typing as npt

from hpc_fl.comm.transport import Transport


def _bytes_array(data: bytes) -> npt.NDArray[Any]:
    return np.frombuffer(data, np.uint8)


def allgather_bytes(transport: Transport, data: bytes) -> list[bytes]:
    """Every rank's `data`, by rank; lengths may differ and be zero (collective: every rank must call it)."""
    lengths = np.zeros(transport.size, np.int64)
    transport.allgather(np.array([len(data)], np.int64), lengths)
    counts: list[int] = lengths.tolist()
    everything = np.empty(sum(counts), np.uint8)
    transport.allgatherv(_bytes_array(data), everything, counts)
    return [part.tobytes() for part in np.split(everything, np.cumsum(counts)[:-1])]


def broadcast_bytes(transport: Transport, data: bytes | None, root: int = 0) -> bytes:
    """The `data` of `root`, on every rank; that of the others is ignored.

    Collective: every rank must call it. Raises ValueError when the root passes None; the other ranks then
    wait for ever.
    """
    if transport.rank != root:
        data = b""
    elif data is None:
        raise ValueError("broadcast_bytes: the root must pass its data")
    length = np.array([len(data)], np.int64)
    transport.broadcast(length, root)
    buf = _bytes_array(data).copy() if transport.rank == root else np.empty(int(length[0]), np.uint8)
    transport.broadcast(buf, root)
    return buf.tobytes()
