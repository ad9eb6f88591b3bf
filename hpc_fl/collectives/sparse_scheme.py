"""What the ways to add up sparse buffers have in common: what they know, what they cost, how they send."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends import Array
from hpc_fl.collectives.allgather import allgather_bytes_sent
from hpc_fl.collectives.dense import dense_bytes
from hpc_fl.collectives.elements import Elements, sparse_size
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.messages import Arrival, as_message, sent_by
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression import Payload
from hpc_fl.errors import NotFiniteError
from hpc_fl.telemetry.ledger import Ledger

TOUCH: Final = 8e-9
"""Seconds to merge or scatter an element on a core: what counts where the network is fast."""
PIECE: Final = 1 << 18
"""Bytes that are worth a message of their own."""
_PIECES: Final = 4


@dataclass(frozen=True)
class Load:
    """A call as every rank knows it: ``n`` elements, of which rank r brings ``counts[r]``.

    ``growth``: how their union grows with the ranks, see :func:`hpc_fl.collectives.elements.growth_of`.
    ``number``: of the call. ``keep``: of the sum, the k largest are the result; None where it is all of it.
    """

    n: int
    counts: tuple[int, ...]
    number: int = 0
    growth: float = 1.0
    keep: int | None = None

    @property
    def ranks(self) -> int:
        return len(self.counts)

    @property
    def most(self) -> int:
        """What the rank that brings the most brings."""
        return max(self.counts)

    def union(self, ranks: int) -> int:
        """How many elements the sum of so many ranks has, as far as can be told before."""
        return min(self.n, int(self.most * float(ranks) ** self.growth))

    def bound(self, n: int, ranks: Sequence[int]) -> int:
        """Payload bytes that a sum of these ranks' elements cannot exceed, among n of the elements."""
        return sparse_size(min(n, sum(self.counts[rank] for rank in ranks)), n)


Put = Callable[[Piece, Sequence[Elements]], None]
"""Takes a piece of the result: what is to be added up there."""


class Post:
    """Elements between ranks; the ledger is charged payloads as "allreduce", what is around as "headers"."""

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self.transport, self._ledger = transport, ledger

    @property
    def rank(self) -> int:
        return self.transport.rank

    @property
    def size(self) -> int:
        return self.transport.size

    def others(self) -> list[int]:
        """The other ranks. A rank begins with its neighbour, or all would send to rank 0 first."""
        return [(self.rank + step) % self.size for step in range(1, self.size)]

    def send(self, elements: Elements | None, ranks: Sequence[int]) -> list[Request]:
        """Begins to; None says that a sum is not finite."""
        if not ranks:
            return []
        payload = None if elements is None else elements.payload()
        message = as_message(payload)
        nbytes = 0 if payload is None else payload.nbytes
        self._ledger.add("allreduce", len(ranks) * nbytes)
        self._ledger.add("headers", len(ranks) * (len(message) - nbytes))
        return [self.transport.isend(message, rank) for rank in ranks]

    def expect(self, source: int, n: int, nbytes: int) -> Arrival:
        """Begins to receive elements of n whose payload has so many bytes at most."""
        return Arrival.expect(self.transport, source, n, nbytes)

    @staticmethod
    def receive(arrival: Arrival, like: Array) -> Elements | None:
        """Waits for them. Raises :class:`WireError`, naming the sender, for anything else."""
        payload: Payload | None = arrival.payload()
        if payload is None:
            return None
        with sent_by(arrival.source):
            return Elements.read(payload, like)

    def tell(self, *numbers: int) -> NDArray[np.int64]:
        """Everybody's numbers: a row for each rank (collective)."""
        everyone = np.empty(self.size * len(numbers), np.int64)
        self.transport.allgather(np.array(numbers, np.int64), everyone)
        self._ledger.add("headers", allgather_bytes_sent(8 * len(numbers), self.size))
        return everyone.reshape(self.size, len(numbers))

    def add_up(self, numbers: NDArray[np.int64] | NDArray[np.float64]) -> None:
        """Sums a few numbers over the ranks, in place (collective); charged as the ring would send them."""
        self.transport.allreduce(numbers)
        self._ledger.add("headers", dense_bytes(numbers.size, self.size, numbers.itemsize))


class Scheme(ABC):
    """A way to add up what the ranks bring; all of them end with identical bits."""

    name: ClassVar[str]

    def __init__(self, post: Post) -> None:
        self._post = post

    @staticmethod
    @abstractmethod
    def seconds(load: Load, link: Link) -> float:
        """What a call costs about, by the formula."""

    @abstractmethod
    def total(self, mine: Elements, load: Load, put: Put) -> int | None:
        """Puts the sum of what the ranks bring, all pieces of 0..n; returns the size of the union, the same
        on all, or None where nobody counted (collective). Raises :class:`NotFiniteError` on all alike.
        """


MakeScheme = Callable[[Post], Scheme]


def equal_parts(start: int, stop: int, count: int) -> list[Piece]:
    """``start`` to ``stop`` in so many pieces of equal length, or one more."""
    n = stop - start
    return [Piece(start + i * n // count, start + (i + 1) * n // count) for i in range(count)]


def pieces_for(nbytes: int) -> int:
    """How many messages to make of one of so many bytes: while one is used, the next ones travel."""
    return max(1, min(_PIECES, nbytes // PIECE))


def too_large() -> NotFiniteError:
    """What is raised where finite buffers have a sum that is not."""
    return NotFiniteError("the sum over the ranks is not finite: the buffers are too large to add")


def sound(parts: Sequence[Elements | None]) -> list[Elements]:
    """Parts that are known to be finite. Raises :class:`NotFiniteError` for an empty message among them."""
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        raise too_large()
    return found
