"""Synchronous SGD: one gradient per party and round, one step on their mean.

McMahan et al., AISTATS 2017 (FedSGD); Chen, Pan, Monga, Bengio, Jozefowicz: Revisiting Distributed
Synchronous SGD, 2016. m <- momentum * m + g; x <- x - lr * (m + decay * x), with g the weighted mean gradient
of one batch of each party.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpc_fl.strategies.strategy import Averaging, State, Weighting


@dataclass(frozen=True)
class FedSGD(Averaging):
    """What travels as the update is minus the gradient.

    State ``momentum`` (trainable,) where momentum is used.
    """

    gradient_only: ClassVar[bool] = True

    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    weighting: Weighting = "samples"

    def init(self, trainable: int, device: torch.device) -> State:
        return {"momentum": torch.zeros(trainable, device=device)} if self.momentum else {}

    def step(self, params: Tensor, update: Tensor, state: State) -> None:
        if self.weight_decay:
            update.add_(params, alpha=-self.weight_decay)
        if self.momentum:
            update = state["momentum"].mul_(self.momentum).add_(update)
        params.add_(update, alpha=self.lr)
