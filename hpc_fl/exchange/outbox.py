"""What the parties of a rank bring together before anything travels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange.finite import all_finite, finite_rows


class Outbox:
    """The weighted sum of this rank's parties, in ``buffers`` (n,) by name, which it overwrites.

    ``sums``: weight, weighted loss and number of those that entered; weights are divided by the expected
    ``total`` before, so that the sum over all ranks is the mean, and large but finite updates cannot overflow
    it. ``left_out``: the ids of the parties whose update or loss was not finite.
    """

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        self.buffers = buffers
        self.sums = np.zeros(3)
        self.parties: list[int] = []
        self.left_out: list[int] = []
        self.total = 1.0

    def open(self, total: float) -> None:
        """Empties it; ``total``: the sum of the weights of all parties expected on all ranks."""
        self.total = total if total > 0 else 1.0
        self.sums[:] = 0.0
        self.parties.clear()
        self.left_out.clear()
        for buffer in self.buffers.values():
            buffer.zero_()

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        """See :meth:`hpc_fl.exchange.Exchange.add`."""
        entering = list(party_ids)
        if not all_finite(losses, buffers):
            finite = torch.stack([losses.isfinite(), *(finite_rows(b) for b in buffers.values())]).all(0)
            sound = finite.tolist()
            self.left_out += [p for p, ok in zip(party_ids, sound, strict=True) if not ok]
            entering = [p for p, ok in zip(party_ids, sound, strict=True) if ok]
            buffers = {name: b[finite] for name, b in buffers.items()}
            weights, losses = weights[finite.cpu().numpy()], losses[finite]
        if not entering:
            return
        self.parties += entering
        scale = torch.from_numpy(weights / np.float32(self.total)).to(losses.device)
        for name, rows in buffers.items():
            _accumulate(self.buffers[name], rows, scale)
        self.sums[0] += weights.sum()
        self.sums[1] += torch.dot(scale, losses).item()
        self.sums[2] += len(weights)


def names_everywhere(transport: Transport, names: Sequence[int]) -> tuple[int, ...]:
    """The party ids that all ranks name, ascending (collective)."""
    lists = allgather_bytes(transport, json.dumps(list(names)).encode())
    return tuple(sorted(party for ids in lists for party in json.loads(ids)))


def _accumulate(total: Tensor, rows: Tensor, weights: Tensor) -> None:
    """total += weights @ rows, in one pass over ``rows`` (B, n)."""
    if len(rows) == 1:
        total.add_(rows[0], alpha=weights[0].item())
    else:
        total.addmv_(rows.t(), weights)
