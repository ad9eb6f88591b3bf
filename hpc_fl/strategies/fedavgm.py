"""Federated averaging with server momentum.

Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
2019. m <- momentum * m + update; x <- x + lr * m.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_fl.strategies.strategy import Averaging, State, Weighting


@dataclass(frozen=True)
class FedAvgM(Averaging):
    """State ``momentum`` (trainable,)."""

    lr: float = 1.0
    momentum: float = 0.9
    weighting: Weighting = "samples"

    def init(self, trainable: int, device: torch.device) -> State:
        return {"momentum": torch.zeros(trainable, device=device)}

    def step(self, params: Tensor, update: Tensor, state: State) -> None:
        state["momentum"].mul_(self.momentum).add_(update)
        params.add_(state["momentum"], alpha=self.lr)
