"""Float32 as it is, added up by an allreduce.

::

    outbox  [ buffer 1 (n) | buffer 2 (n) | ... | tail ]    one float32 buffer, one message

Each party's buffers are added to the outbox times the party's share of the weight; the sum over ranks is the
mean, scaled up where parties were left out. The tail carries what every rank must know at the same moment:
the weight that entered, the training loss, how many parties were left out, whether to stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives import Collective, Handle, dense_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange.exchange import KeptStates, Mixed
from hpc_fl.exchange.outbox import Outbox, names_everywhere

_TAIL: Final = 5
"""Weight, weighted loss, parties, parties left out, stop."""


class DenseExchange:
    """The mean over all parties of ``names`` buffers of ``n`` float32 each; see :class:`Exchange`.

    A rank adds its parties up before it sends, so the bytes do not depend on how many it has.
    """

    def __init__(
        self,
        transport: Transport,
        collective: Collective,
        *,
        n: int,
        names: Sequence[str],
        device: torch.device,
    ) -> None:
        self._transport, self._collective = transport, collective
        self._message = torch.zeros(n * len(names) + _TAIL, device=device)
        self._outbox = Outbox({name: self._message[i * n : (i + 1) * n] for i, name in enumerate(names)})
        self._tail = self._message[n * len(names) :]

    @property
    def length(self) -> int:
        """Elements of the message."""
        return self._message.numel()

    def open(self, round_: int, total: float) -> None:
        self._outbox.open(total)

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        self._outbox.add(party_ids, buffers, weights, losses)

    def travel(self, *, stop: bool = False) -> None:
        self._close(stop)
        self._collective.allreduce(self._message)

    def start(self, *, stop: bool = False) -> Handle:
        self._close(stop)
        return self._collective.start(self._message)

    def _close(self, stop: bool) -> None:
        outbox = self._outbox
        told = np.array([*outbox.sums, len(outbox.left_out), stop], dtype=np.float32)
        self._tail.copy_(torch.from_numpy(told))

    def result(self) -> Mixed:
        weight, loss, parties, left_out, stop = self._tail.tolist()
        outbox = self._outbox
        # Nobody was left out in most rounds: then the sum is the mean already.
        if 0 < weight != outbox.total:
            for buffer in outbox.buffers.values():
                buffer.mul_(outbox.total / weight)
        plain = round(parties) * sum(buffer.nbytes for buffer in outbox.buffers.values())
        return Mixed(
            outbox.buffers,
            weight,
            loss * outbox.total / weight if weight > 0 else float("nan"),
            round(parties),
            names_everywhere(self._transport, outbox.left_out) if left_out else (),
            stop > 0,
            plain,
            plain,
            dense_bytes(self._message.numel(), self._transport.size),
        )

    def state(self) -> KeptStates:
        return {}

    def restore(self, state: KeptStates) -> None:
        """Nothing is kept: the sum is exact but for rounding."""
