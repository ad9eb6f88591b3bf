"""Payloads as messages between two ranks; an empty message says that there is nothing finite to send."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression import Payload
from hpc_fl.errors import WireError
from hpc_fl.telemetry.ledger import Ledger

_ENVELOPE: Final = 1024
"""Bytes of a message around its payload, at most: header, meta, table."""
_MAGIC: Final = 4


def as_message(payload: Payload | None) -> NDArray[np.uint8]:
    """A payload's bytes, none for None."""
    return np.frombuffer(b"" if payload is None else payload.tobytes(), np.uint8)


def send_gossip(
    transport: Transport, ledger: Ledger, payload: Payload | None, ranks: Sequence[int]
) -> list[Request]:
    """Sends a payload (None: an empty message) to each of ``ranks``: the requests. The ledger counts it as
    "gossip", what is around it as "headers".
    """
    if not ranks:
        return []
    message = as_message(payload)
    if payload is not None:
        ledger.add("gossip", len(ranks) * payload.nbytes)
        ledger.add("headers", len(ranks) * (len(message) - payload.nbytes))
    return [transport.isend(message, rank) for rank in ranks]


@dataclass
class Arrival:
    """A payload of ``n`` elements under way from ``source``."""

    source: int
    n: int
    _memory: NDArray[np.uint8]
    _request: Request

    @classmethod
    def expect(cls, transport: Transport, source: int, n: int, nbytes: int) -> Arrival:
        """Posts the receive, with room for a payload of ``nbytes``."""
        memory = np.empty(nbytes + _ENVELOPE, np.uint8)
        memory[:_MAGIC] = 0
        return cls(source, n, memory, transport.irecv(memory, source))

    def done(self) -> bool:
        """Whether it is here; lets MPI move what is under way."""
        return self._request.done()

    def wait(self, timeout: float | None = None) -> None:
        """Returns when it is here; ``timeout`` in seconds."""
        self._request.wait(timeout)

    def payload(self) -> Payload | None:
        """Waits for it; None for an empty message. Raises :class:`WireError`, naming the sender."""
        self._request.wait()
        if not self._memory[:_MAGIC].any():
            return None
        with sent_by(self.source):
            payload = Payload.at_head(self._memory.data)
            if payload.n != self.n:
                raise WireError(f"payload of {payload.n} elements, {self.n} expected")
        return payload


@contextmanager
def sent_by(rank: int) -> Iterator[None]:
    """Names the sender in every :class:`WireError` raised inside."""
    try:
        yield
    except WireError as error:
        raise WireError(f"message of rank {rank}: {error}") from error


def progress(requests: Sequence[Request]) -> None:
    """Lets MPI move what is under way: looking at one request moves all."""
    if requests:
        requests[-1].done()


def wait_for(requests: Sequence[Request]) -> None:
    """Returns when all are complete."""
    for request in requests:
        request.wait()
