"""Each party's update as a payload of its own, brought to every rank and added up there.

Every rank adds the payloads of all parties in ascending order of party id, whatever rank they come from: all
hold identical bits, and the same ones on any number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives import Allgather, Gathering, Handle, dense_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Codec, Payload
from hpc_fl.errors import NotFiniteError, WireError
from hpc_fl.exchange.encoders import Encoder
from hpc_fl.exchange.exchange import KeptStates, Mixed
from hpc_fl.exchange.message import Contribution, Incoming, Outgoing


class PayloadExchange:
    """The mean over all parties of one buffer of ``n`` float32 for each of ``encoders``; see
    :class:`Exchange`.

    ``encoders``: how a party's buffer of that name becomes a payload of ``codec``. A rank sends the payloads
    of its parties to every other rank, and holds those of all parties until the result is made.
    """

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        encoders: Mapping[str, Encoder],
        collective: Allgather,
        *,
        n: int,
        device: torch.device,
    ) -> None:
        self._transport, self._codec, self._collective = transport, codec, collective
        self._encoders = dict(encoders)
        self._buffers = {name: torch.zeros(n, device=device) for name in encoders}
        self._round = 0
        self._outgoing = self._empty()
        self._gathering = Gathering((), ())

    def open(self, round_: int, total: float) -> None:
        self._round = round_
        self._outgoing = self._empty()

    def _empty(self) -> Outgoing:
        return Outgoing(self._round, len(self._encoders))

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        rows = zip(party_ids, weights.tolist(), losses.tolist(), strict=True)
        for index, (party, weight, loss) in enumerate(rows):
            try:
                payloads = self._encode(party, loss, {name: b[index] for name, b in buffers.items()})
            except NotFiniteError:
                self._outgoing.left_out.append(party)
            else:
                self._outgoing.add(Contribution(party, weight, loss, payloads))

    def _encode(self, party: int, loss: float, rows: Mapping[str, Tensor]) -> tuple[Payload, ...]:
        """The payloads of all buffers, in the order of the encoders, or none.

        Of several buffers, one that is not finite must not leave the others' residuals changed: so all are
        looked at first. What this cannot see is a sum with the residual that leaves the range of float32.
        """
        several = len(rows) > 1
        if not math.isfinite(loss) or (several and not all(row.isfinite().all() for row in rows.values())):
            raise NotFiniteError(f"party {party}: its update or its loss is not finite")
        return tuple(e.encode(party, self._round, rows[name]) for name, e in self._encoders.items())

    def travel(self, *, stop: bool = False) -> None:
        self.start(stop=stop).wait()

    def start(self, *, stop: bool = False) -> Handle:
        outgoing, self._outgoing = self._outgoing, self._empty()
        self._gathering = self._collective.start(outgoing.pack(stop), outgoing.payload_bytes)
        return self._gathering

    def result(self) -> Mixed:
        messages = [self._unpack(rank, data) for rank, data in enumerate(self._gathering.messages)]
        self._gathering = Gathering((), ())  # the payloads' memory is free when this returns
        pairs = [(rank, one) for rank, message in enumerate(messages) for one in message.contributions]
        pairs.sort(key=lambda pair: pair[1].party_id)
        weight = sum(one.weight for _, one in pairs)
        for buffer in self._buffers.values():
            buffer.zero_()
        for rank, one in pairs if weight > 0 else ():
            self._accumulate(rank, one, one.weight / weight)
        return Mixed(
            self._buffers,
            weight,
            sum(one.weight * one.loss for _, one in pairs) / weight if weight > 0 else float("nan"),
            len(pairs),
            tuple(sorted(party for message in messages for party in message.left_out)),
            any(message.stop for message in messages),
            sum(payload.nbytes for _, one in pairs for payload in one.payloads),
            len(pairs) * sum(buffer.nbytes for buffer in self._buffers.values()),
            dense_bytes(sum(map(len, self._buffers.values())), self._transport.size),
        )

    def _unpack(self, rank: int, data: NDArray[np.uint8]) -> Incoming:
        try:
            return Incoming.unpack(data, self._round, len(self._encoders))
        except WireError as error:
            raise WireError(f"message of rank {rank}: {error}") from error

    def _accumulate(self, rank: int, one: Contribution, share: float) -> None:
        codec = self._codec.at(self._round, one.party_id)
        try:
            for payload, buffer in zip(one.payloads, self._buffers.values(), strict=True):
                codec.accumulate(payload, share, buffer)
        except WireError as error:
            raise WireError(f"message of rank {rank}: party {one.party_id}: {error}") from error

    def state(self) -> KeptStates:
        merged: KeptStates = {}
        for name, encoder in self._encoders.items():
            for party, kept in encoder.state().items():
                merged.setdefault(party, {}).update({f"{name}.{key}": kept[key] for key in kept})
        return merged

    def restore(self, state: KeptStates) -> None:
        for name, encoder in self._encoders.items():
            parts = {party: _part(kept, f"{name}.") for party, kept in state.items()}
            encoder.restore({party: kept for party, kept in parts.items() if kept})


def _part(kept: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in kept.items() if key.startswith(prefix)}
