"""FedAdam (Reddi et al., Adaptive Federated Optimization, ICLR 2021): v <- beta2 v + (1 - beta2) d^2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpc_fl.strategies.adaptive import Adaptive


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """The mean square of the updates, exponentially forgotten."""

    beta2: float = 0.99

    def second_moment(self, v: Tensor, square: Tensor) -> None:
        v.lerp_(square, 1 - self.beta2)
