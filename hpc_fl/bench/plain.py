"""The yardstick: the loop that a competent user would write with torch and mpi4py alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass
class PlainLoop:
    """FedAvg over the parties of this rank: local SGD one party after another, then one Allreduce of the
    weighted updates.

    ``parties``: (x, y) by party id. ``comm``: an mpi4py communicator, or None on one rank.
    """

    module: nn.Module
    parties: dict[int, tuple[Tensor, Tensor]]
    epochs: int
    batch_size: int
    lr: float
    comm: Any

    def round(self, cohort: Sequence[int]) -> None:
        """Trains the members of ``cohort`` that are here, and applies the mean."""
        parameters = list(self.module.parameters())
        start = [p.detach().clone() for p in parameters]
        total = [torch.zeros_like(p) for p in start]
        weight = 0.0
        for party in cohort:
            if party not in self.parties:
                continue
            x, y = self.parties[party]
            self._train(x, y, parameters, start)
            with torch.no_grad():
                for sum_, p, before in zip(total, parameters, start, strict=True):
                    sum_.add_(p - before, alpha=len(x))
            weight += len(x)
        self._apply(parameters, start, total, weight)

    def _train(self, x: Tensor, y: Tensor, parameters: list[nn.Parameter], start: list[Tensor]) -> None:
        with torch.no_grad():
            for p, before in zip(parameters, start, strict=True):
                p.copy_(before)
        self.module.train()
        optimizer = torch.optim.SGD(parameters, lr=self.lr)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(x)), self.batch_size):
                optimizer.zero_grad()
                F.cross_entropy(self.module(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    @torch.no_grad()
    def _apply(
        self, parameters: list[nn.Parameter], start: list[Tensor], total: list[Tensor], weight: float
    ) -> None:
        flat = torch.cat([*(t.flatten() for t in total), torch.tensor([weight])]).numpy()
        if self.comm is not None:
            summed = np.empty_like(flat)
            self.comm.Allreduce(flat, summed)
            flat = summed
        mean, first = torch.from_numpy(flat[:-1] / flat[-1]), 0
        for p, before in zip(parameters, start, strict=True):
            p.copy_(before + mean[first : first + p.numel()].view_as(p))
            first += p.numel()
