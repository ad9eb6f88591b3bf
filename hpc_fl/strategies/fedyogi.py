"""FedYogi (Reddi et al., Adaptive Federated Optimization, ICLR 2021).

v <- v - (1 - beta2) d^2 sign(v - d^2).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpc_fl.strategies.adaptive import Adaptive


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """As FedAdam, but ``v`` moves by at most (1 - beta2) d^2 a round: large values are forgotten slowly."""

    beta2: float = 0.99

    def second_moment(self, v: Tensor, square: Tensor) -> None:
        v.addcmul_(square, (v - square).sign_(), value=self.beta2 - 1)
