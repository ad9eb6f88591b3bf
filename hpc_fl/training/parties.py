"""What a party keeps between rounds, by party id."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpc_fl.comm.transport import Transport
from hpc_fl.flat import FlatModel


class LocalBuffers:
    """The ``local`` buffers of the parties hosted on this rank (a party's own BatchNorm statistics, say).

    A party that has never trained has the model's initial ones. Nothing is kept where the model has no local
    buffer.
    """

    def __init__(self, model: FlatModel) -> None:
        self._model = model
        self._initial = model.local_state()
        self._kept: dict[int, dict[str, Tensor]] = {}

    def enter(self, party_id: int) -> None:
        """Puts the party's buffers into the module."""
        if self._initial:
            self._model.load_local_state(self._kept.get(party_id, self._initial))

    def leave(self, party_id: int) -> None:
        """Keeps the module's buffers as the party's."""
        if self._initial:
            self._kept[party_id] = self._model.local_state()

    def enter_mean(self, transport: Transport) -> None:
        """Puts the mean over all parties that have trained into the module (integers rounded); every rank
        must call it.
        """
        if not self._initial:
            return
        template = torch.cat([t.double().flatten().cpu() for t in self._initial.values()])
        total = torch.zeros(len(template) + 1, dtype=torch.float64)
        for state in self._kept.values():
            total[:-1] += torch.cat([t.double().flatten().cpu() for t in state.values()])
        total[-1] = len(self._kept)
        transport.allreduce(total)
        mean = total[:-1] / total[-1] if total[-1] > 0 else template
        sizes = [t.numel() for t in self._initial.values()]
        merged = {}
        for (name, like), part in zip(self._initial.items(), torch.split(mean, sizes), strict=True):
            merged[name] = (
                (part if like.is_floating_point() else part.round()).reshape(like.shape).to(like.dtype)
            )
        self._model.load_local_state(merged)

    def state(self) -> dict[int, dict[str, Tensor]]:
        """By party id, for a checkpoint."""
        return self._kept

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`."""
        self._kept = {party: dict(buffers) for party, buffers in state.items()}
