"""Messages of any length from every rank to every rank: for payloads that cannot be added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.comm.transport import Request, Transport
from hpc_fl.telemetry.ledger import Ledger

_PIECE: Final = 1 << 30
"""Bytes of one MPI message at most; longer ones are cut."""

_LENGTH: Final = 8
"""Bytes by which a rank tells another how long its message will be."""


def allgather_bytes_sent(nbytes: int, ranks: int) -> int:
    """Bytes that one rank sends to bring ``nbytes`` to all others: (P-1) * nbytes."""
    return (ranks - 1) * nbytes


@dataclass(frozen=True)
class Gathering:
    """An allgather under way."""

    messages: Sequence[NDArray[np.uint8]]
    """Every rank's message, by rank; filled after :meth:`wait`."""
    _requests: Sequence[Request]

    def wait(self) -> None:
        """Returns when every message is here and the own one has left."""
        for request in self._requests:
            request.wait()


class Allgather:
    """Every rank's message to every rank, straight from one to the other.

    The ledger is charged the payloads in a message as "allgather" and what is around them as "headers", both
    times P - 1.
    """

    name: ClassVar[str] = "allgather"

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._transport, self._ledger = transport, ledger

    def start(self, message: bytes | bytearray, payload_bytes: int) -> Gathering:
        """Begins to send ``message``, of which ``payload_bytes`` are payloads, and to receive the others'.

        Every rank must call it; it returns when the lengths are known, and the messages travel until the
        result's ``wait()``. ``message`` is not to be changed before.
        """
        transport, mine = self._transport, np.frombuffer(message, np.uint8)
        lengths = np.zeros(transport.size, np.int64)
        transport.allgather(np.array([len(mine)], np.int64), lengths)
        messages = [
            mine if rank == transport.rank else np.empty(length, np.uint8)
            for rank, length in enumerate(lengths.tolist())
        ]
        # A rank begins with its neighbour, or all would send to rank 0 first.
        others = [(transport.rank + step) % transport.size for step in range(1, transport.size)]
        receives = [transport.irecv(p, rank) for rank in others for p in _pieces(messages[rank])]
        sends = [transport.isend(p, rank) for rank in others for p in _pieces(mine)]
        headers = len(mine) - payload_bytes + _LENGTH
        self._ledger.add("allgather", allgather_bytes_sent(payload_bytes, transport.size))
        self._ledger.add("headers", allgather_bytes_sent(headers, transport.size))
        return Gathering(messages, [*receives, *sends])


def _pieces(buffer: NDArray[Any]) -> list[NDArray[Any]]:
    return [buffer[start : start + _PIECE] for start in range(0, len(buffer), _PIECE)]
