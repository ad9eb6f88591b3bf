"""What the adaptive server optimisers share.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan: Adaptive Federated Optimization, ICLR 2021,
algorithm 2: m <- beta1 m + (1 - beta1) d; v <- (the optimiser's own rule); x <- x + lr * m / (sqrt(v) + tau),
with v starting at tau^2.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_fl.strategies.strategy import Averaging, State, Weighting


@dataclass(frozen=True)
class Adaptive(Averaging):
    """State ``m`` and ``v`` (trainable,). ``tau`` bounds how much a small ``v`` can enlarge a step."""

    lr: float = 0.01
    beta1: float = 0.9
    tau: float = 1e-3
    weighting: Weighting = "samples"

    def init(self, trainable: int, device: torch.device) -> State:
        return {
            "m": torch.zeros(trainable, device=device),
            "v": torch.full((trainable,), self.tau**2, device=device),
        }

    def step(self, params: Tensor, update: Tensor, state: State) -> None:
        m, v = state["m"], state["v"]
        m.lerp_(update, 1 - self.beta1)
        self.second_moment(v, update.square_())
        params.addcdiv_(m, v.sqrt().add_(self.tau), value=self.lr)

    @abstractmethod
    def second_moment(self, v: Tensor, square: Tensor) -> None:
        """Changes ``v`` (trainable,) in place, given the squared mean update, which may be overwritten."""
