"""Every rank owns a shard: encoded pieces go to their owners, who add them up, encode the sums and send them.

::

    phase 1   a rank encodes its buffer piece by piece, and sends each to the owner of the shard; meanwhile
              it adds up those pieces of its own that have arrived: its own, as it is, + the others' decoded
    verdict   whose buffers were not finite? The owners leave these out, of sums already made too
    phase 2   an owner encodes its sums and sends them to all; all decode them, the owner as well

Both encodings have error feedback; that of the second one is kept by the owner. A rank sends 2 (P-1) encoded
shards of n/P elements, whatever P is. With 1 bit: Tang et al.: 1-bit Adam, ICML 2021; Zheng, Huang, Kwok:
Communication-Efficient Distributed Blockwise Momentum SGD with Error-Feedback, NeurIPS 2019.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor

from hpc_fl.collectives.compressed import Call, Compressed
from hpc_fl.collectives.memory import RESIDUAL, Memory, Piece
from hpc_fl.collectives.messages import Arrival, as_message, progress, sent_by, wait_for
from hpc_fl.collectives.shards import Shards
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.arrays import all_finite, as_array
from hpc_fl.compression.base import Base
from hpc_fl.errors import CodecError, NotFiniteError
from hpc_fl.telemetry.ledger import Ledger

_SERVER: Final = "server"
_PLACE: Final = "place"

Found = dict[int, Payload | None]
"""A piece as encoded by each rank; None where it was not finite, or is taken as it is."""


class _Incoming:
    """The pieces of the own shard on their way here; ``found``: those that have come, by sender."""

    def __init__(self, expected: dict[Piece, list[Arrival]]) -> None:
        self._expected = expected
        self.found: dict[Piece, Found] = {}

    def complete(self, wait: bool) -> Iterator[Piece]:
        """The pieces that all ranks have sent, in order, once each; all of them with ``wait``."""
        while self._expected:
            piece, arrivals = next(iter(self._expected.items()))
            here = piece in self.found and all(arrival.done() for arrival in arrivals)
            if not (wait or here):
                return
            del self._expected[piece]
            self.found[piece] |= {arrival.source: arrival.payload() for arrival in arrivals}
            yield piece


class Sharded(Compressed):
    """The reduction above, for any codec that takes buffers of any length."""

    name: ClassVar[str] = "sharded"
    encodes_own: ClassVar[bool] = False
    """Whether an owner encodes its own pieces too, and adds what they decode to."""

    @classmethod
    def carries(cls, codec: Base) -> bool:
        """Not what is laid out for one buffer: segments, shapes, a number of elements to choose."""
        try:
            return all(codec.nbytes(n) >= 0 for n in (1, 8, 64))
        except CodecError:
            return False

    def __init__(
        self, transport: Transport, ledger: Ledger, codec: Base, *, feedback: bool, mean: bool = True
    ) -> None:
        super().__init__(transport, ledger, codec, feedback=feedback, mean=mean)
        self._server = Memory() if feedback else None
        self._sums: Tensor | None = None
        self._shards = Shards(())

    def _reduce(self, x: Tensor, call: Call) -> tuple[int, ...]:
        rank, size = self._transport.rank, self._transport.size
        self._shards = Shards.cut(x.numel(), size)
        sums = self._room(x)
        incoming = _Incoming(
            {
                piece: [self._expect(source, piece) for source in range(size) if source != rank]
                for piece in self._shards.of[rank]
            }
        )

        def add_up(piece: Piece, shares: Sequence[float]) -> None:
            self._add_up(piece.of(x), incoming.found[piece], shares, self._within(piece).of(sums))

        def take(wait: bool) -> None:
            for piece in incoming.complete(wait):
                add_up(piece, call.shares())

        sends, sound = self._scatter(x, call, incoming, take)
        take(True)
        wait_for(sends)
        left_out = self._verdict(sound, commit=call.shares()[rank] > 0)
        for piece in self._shards.of[rank] if left_out else ():
            add_up(piece, call.shares(left_out))
        self._spread(x, sums, call)
        return left_out

    def _room(self, x: Tensor) -> Tensor:
        """Memory for the sums of the own shard."""
        size = self._shards.length(self._transport.rank)
        if self._sums is None or self._sums.numel() != size or self._sums.device != x.device:
            self._sums = torch.empty(size, device=x.device)
        return self._sums

    def _within(self, piece: Piece) -> Piece:
        """A piece of the own shard as one of the sums."""
        start = self._shards.start(self._transport.rank)
        return Piece(piece.start - start, piece.stop - start)

    def _expect(self, source: int, piece: Piece) -> Arrival:
        return Arrival.expect(self._transport, source, len(piece), self._codec.nbytes(len(piece)))

    def _scatter(
        self, x: Tensor, call: Call, incoming: _Incoming, take: Callable[[bool], None]
    ) -> tuple[list[Request], bool]:
        """Sends the pieces, and meanwhile takes up what has arrived: what is under way, and whether all was
        finite. After the first that is not, and without a share in the result, messages are empty.
        """
        rank = self._transport.rank
        sends: list[Request] = []
        takes_part = call.shares()[rank] > 0
        sound = not takes_part or self.encodes_own or self._own_finite(x)
        # A rank begins with its neighbour, or all would send to rank 0 first.
        for owner, piece in self._shards.turns(rank + 1):
            encodes = takes_part and sound and (owner != rank or self.encodes_own)
            payload = self._encoded(self._memory, x, piece, call, 0) if encodes else None
            sound = sound and (payload is not None or not encodes)
            if owner != rank:
                sends += self._send(payload, [owner])
            else:
                incoming.found[piece] = {rank: payload}
            progress(sends)
            take(False)
        return sends, sound

    def _own_finite(self, x: Tensor) -> bool:
        return all(all_finite(as_array(piece.of(x))) for piece in self._shards.of[self._transport.rank])

    def _encoded(
        self, memory: Memory | None, x: Tensor, piece: Piece, call: Call, phase: int
    ) -> Payload | None:
        """The payload of a piece of ``x``; None where it is not finite."""
        # What is drawn at random must not be the same for two ranks, phases or pieces.
        stream = (2 * self._transport.rank + phase) * x.numel() + piece.start
        codec = self._codec.at(call.number, stream)
        try:
            return codec.encode(piece.of(x)) if memory is None else memory.encode(codec, x, piece)
        except NotFiniteError:
            return None

    def _send(self, payload: Payload | None, ranks: Sequence[int]) -> list[Request]:
        message = as_message(payload)
        if payload is not None:
            self._charge(payload, len(message), len(ranks))
        return [self._transport.isend(message, rank) for rank in ranks]

    def _add_up(self, own: Tensor, found: Found, shares: Sequence[float], out: Tensor) -> None:
        """out = the sum over the ranks of share * decoded piece: the own one first, the others by rank."""
        rank = self._transport.rank
        if shares[rank] > 0 and not self.encodes_own:
            torch.mul(own, shares[rank], out=out)
        else:
            out.zero_()
        for source, payload in sorted(found.items()):
            if payload is not None and shares[source] > 0:
                with sent_by(source):
                    self._codec.accumulate(payload, shares[source], out)

    def _spread(self, x: Tensor, sums: Tensor, call: Call) -> None:
        """Sends the own sums, encoded, and decodes everybody's to ``x``."""
        rank, size = self._transport.rank, self._transport.size
        others = [(rank + step) % size for step in range(1, size)]
        turns = [(owner, piece) for owner, piece in self._shards.turns(rank + 1) if owner != rank]
        arrivals = deque((self._expect(owner, piece), piece) for owner, piece in turns)
        if self._server is not None:
            self._server.begin(sums)
        sends, sound = [], True
        for piece in self._shards.of[rank]:
            payload = self._encoded(self._server, sums, self._within(piece), call, 1)
            sends += self._send(payload, others)
            progress(sends)
            sound = sound and payload is not None
            if payload is not None:
                self._codec.decode(payload, piece.of(x))
            while arrivals and arrivals[0][0].done():
                sound = self._decode(*arrivals.popleft(), x) and sound
        while arrivals:
            sound = self._decode(*arrivals.popleft(), x) and sound
        wait_for(sends)
        if not sound:
            raise NotFiniteError("the sum over the ranks is not finite: the buffers are too large to add")
        if self._server is not None:
            self._server.commit()

    def _decode(self, arrival: Arrival, piece: Piece, x: Tensor) -> bool:
        """Waits for a sum and writes it to ``x``; whether it was finite."""
        payload = arrival.payload()
        if payload is not None:
            with sent_by(arrival.source):
                self._codec.decode(payload, piece.of(x))
        return payload is not None

    def state(self) -> dict[str, Tensor]:
        """Also ``server``: what the owner's encoding kept back, and ``place``: of which elements (start)."""
        kept = super().state()
        server = None if self._server is None else self._server.settle(self._codec)
        if server is not None:
            start = self._shards.start(self._transport.rank)
            kept |= {_SERVER: server, _PLACE: torch.tensor([start, self._transport.size])}
        return kept

    def restore(self, *states: Mapping[str, Tensor]) -> None:
        """Of another world, what owners kept back is added to what this rank keeps: it travels once more."""
        if self._memory is None or self._server is None:
            return
        with_server = [state for state in states if _SERVER in state]
        if len(states) == 1 and with_server and self._is_home(states[0]):
            self._server.restore([states[0][_SERVER]])
            with_server = []
        else:
            self._server.restore([])
        again = [self._as_residual(state) for state in with_server]
        self._memory.restore([state[RESIDUAL] for state in states if RESIDUAL in state] + again)

    def _is_home(self, state: Mapping[str, Tensor]) -> bool:
        """Whether an owner's state is of the shard that this rank owns here."""
        rank, size = self._transport.rank, self._transport.size
        start = Shards.cut(state[RESIDUAL].numel(), size).start(rank)
        return state[_PLACE].tolist() == [start, size] and (start > 0 or rank == 0)

    def _as_residual(self, state: Mapping[str, Tensor]) -> Tensor:
        """What an owner kept back, over the whole buffer, in units of a rank's input."""
        start, size = map(int, state[_PLACE].tolist())
        whole = torch.zeros_like(state[RESIDUAL])
        server = state[_SERVER]
        whole[start : start + server.numel()] = server * (size if self._mean else 1)
        return whole
