"""What mixers of encoded rows share: a payload a node, sent once to every rank that needs it."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Final

from torch import Tensor

from hpc_fl.collectives.algorithm import kept_if_it_fails, settle
from hpc_fl.collectives.gossip import Gossip
from hpc_fl.collectives.messages import Arrival, progress, send_gossip, sent_by
from hpc_fl.collectives.mixer import Placement
from hpc_fl.collectives.routes import Received, Routes
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.arrays import as_array, module_of
from hpc_fl.compression.base import Base
from hpc_fl.compression.reading import Reading, require_id
from hpc_fl.errors import NotFiniteError
from hpc_fl.telemetry.ledger import Ledger

_POSTED: Final = 4
"""Receives under way at once."""

Takers = tuple[tuple[int, float], ...]
"""Rows here that take of a payload, and their weights."""


class EncodedGossip(Gossip):
    """A mixer of what rows decode to; see :class:`Gossip`.

    ``codec.nbytes(n)`` bytes, or less, for each row and each other rank that hosts a taker of it. Holds a few
    received payloads at a time, whatever the number of sources, and those of the rows hosted here.

    Raises :class:`CodecError` for a codec or rows that cannot be encoded; on every rank
    :class:`TransportError` where codecs or lengths of rows differ in the first call, naming them and the
    ranks; on the rank that finds it :class:`WireError`, naming the sender of a message that cannot be read.
    """

    def __init__(self, transport: Transport, ledger: Ledger, placement: Placement, codec: Base) -> None:
        super().__init__(transport, ledger, placement)
        self._codec = codec

    @property
    def codec(self) -> Base:
        return self._codec

    def _mix(self, rows: Tensor, routes: Routes, round_: int) -> tuple[int, ...]:
        ranks = {sent.row: sent.ranks for sent in routes.sent}
        sends: list[Request] = []
        own: list[Payload | None] = []
        # No payload is then longer than the room for it.
        self._agree_once({"codec": self._codec, "elements of a row": rows.shape[1]})
        self._begin(rows, routes)
        with kept_if_it_fails(sends):
            arrivals = Arrivals(self._transport, self._codec, routes, rows)
            with kept_if_it_fails(arrivals):
                for row, node in enumerate(self._nodes):
                    payload = self._payload(node, rows[row], round_)
                    own.append(payload)
                    sends += send_gossip(self._transport, self._ledger, payload, ranks.get(row, ()))
                    progress(sends)
                self._apply(rows, routes, own, arrivals)
            settle(*sends)
        return self._unsound([payload is not None for payload in own])

    def _payload(self, node: int, x: Tensor, round_: int) -> Payload | None:
        try:
            return self._encode(node, x, round_)
        except NotFiniteError:
            return None

    def _begin(self, rows: Tensor, routes: Routes) -> None:
        """Prepares for these rows; raises what can be known before anything moves."""

    @abstractmethod
    def _encode(self, node: int, x: Tensor, round_: int) -> Payload:
        """The payload of a node's row, sharing no memory with it. Raises :class:`NotFiniteError`."""

    @abstractmethod
    def _apply(self, rows: Tensor, routes: Routes, own: list[Payload | None], arrivals: Arrivals) -> None:
        """Mixes what the hosted nodes encoded and what arrives into the rows."""


class Arrivals:
    """The payloads on their way here, in the order of ``routes.received``."""

    def __init__(self, transport: Transport, codec: Base, routes: Routes, rows: Tensor) -> None:
        self._transport, self._codec, self._rows, self._n = transport, codec, rows, rows.shape[1]
        self._nbytes = codec.nbytes(self._n)
        self._expected = deque(routes.received)
        self._posted: deque[tuple[Received, Arrival]] = deque()
        for _ in range(_POSTED):
            self._expect()

    def _expect(self) -> None:
        if self._expected:
            source = self._expected.popleft()
            arrival = Arrival.expect(self._transport, source.rank, self._n, self._nbytes)
            self._posted.append((source, arrival))

    def readings(self) -> Iterator[tuple[Takers, Reading | None]]:
        """Each in turn, when it is here, None where the row was not finite. Raises :class:`WireError`, naming
        the sender.
        """
        while self._posted:
            source, arrival = self._posted[0]
            settle(arrival)
            payload = arrival.payload()
            self._posted.popleft()
            self._expect()
            if payload is None:
                yield source.targets, None
                continue
            with sent_by(source.rank):
                require_id(payload, self._codec.id, self._codec.name)
                yield source.targets, self._codec.read(payload, as_array(self._rows[0]))


def detached(payload: Payload, x: Tensor) -> Payload:
    """The payload with memory of its own, where it shared that of ``x``."""
    array = as_array(x)
    shares = module_of(array).may_share_memory
    parts = tuple(part.copy() if shares(part, array) else part for part in payload.parts)
    return Payload(payload.codec, payload.n, parts, payload.meta)
