"""Float32 as it is, added up by an allreduce.

::

    outbox  [ buffer 1 (n) | buffer 2 (n) | ... | tail ]    one float32 buffer, one message

Each party's buffers are added to the outbox times the party's share of the weight; the sum over ranks is the
mean, scaled up where parties were left out. The tail carries what every rank must know at the same moment:
the weight that entered, the training loss, how many parties were left out, whether to stop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives import Collective, Handle, dense_bytes
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange.exchange import KeptStates, Mixed
from hpc_fl.exchange.finite import all_finite, finite_rows

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
        self._outbox = torch.zeros(n * len(names) + _TAIL, device=device)
        self._buffers = {name: self._outbox[i * n : (i + 1) * n] for i, name in enumerate(names)}
        self._tail = self._outbox[n * len(names) :]
        self._sums = np.zeros(3)  # weight, weighted loss, parties
        self._left_out: list[int] = []
        self._total = 1.0

    def open(self, round_: int, total: float) -> None:
        # Weights are divided by the total before the sum, which then is a mean: large but finite updates
        # cannot overflow it.
        self._total = total if total > 0 else 1.0
        self._outbox.zero_()
        self._sums[:] = 0.0
        self._left_out.clear()

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        if not all_finite(losses, buffers):
            finite = torch.stack([losses.isfinite(), *(finite_rows(b) for b in buffers.values())]).all(0)
            self._left_out += [p for p, ok in zip(party_ids, finite.tolist(), strict=True) if not ok]
            buffers = {name: b[finite] for name, b in buffers.items()}
            weights, losses = weights[finite.cpu().numpy()], losses[finite]
        if not len(weights):
            return
        scale = torch.from_numpy(weights / np.float32(self._total)).to(losses.device)
        for name, rows in buffers.items():
            _accumulate(self._buffers[name], rows, scale)
        self._sums += (float(weights.sum()), float(torch.dot(scale, losses)), len(weights))

    def travel(self, *, stop: bool = False) -> None:
        self._close(stop)
        self._collective.allreduce(self._outbox)

    def start(self, *, stop: bool = False) -> Handle:
        self._close(stop)
        return self._collective.start(self._outbox)

    def _close(self, stop: bool) -> None:
        self._tail.copy_(torch.tensor([*self._sums, len(self._left_out), float(stop)]))

    def result(self) -> Mixed:
        weight, loss, parties, left_out, stop = self._tail.tolist()
        # Nobody was left out in most rounds: then the sum is the mean already.
        if 0 < weight != self._total:
            for buffer in self._buffers.values():
                buffer.mul_(self._total / weight)
        plain = round(parties) * sum(buffer.nbytes for buffer in self._buffers.values())
        return Mixed(
            self._buffers,
            weight,
            loss * self._total / weight if weight > 0 else float("nan"),
            round(parties),
            self._names_of_left_out() if left_out else (),
            stop > 0,
            plain,
            plain,
            dense_bytes(self._outbox.numel(), self._transport.size),
        )

    def _names_of_left_out(self) -> tuple[int, ...]:
        lists = allgather_bytes(self._transport, json.dumps(self._left_out).encode())
        return tuple(sorted(party for ids in lists for party in json.loads(ids)))

    def state(self) -> KeptStates:
        return {}

    def restore(self, state: KeptStates) -> None:
        """Nothing is kept: the sum is exact but for rounding."""


def _accumulate(total: Tensor, rows: Tensor, weights: Tensor) -> None:
    """total += weights @ rows, in one pass over ``rows`` (B, n)."""
    if len(rows) == 1:
        total.add_(rows[0], alpha=weights[0].item())
    else:
        total.addmv_(rows.t(), weights)
