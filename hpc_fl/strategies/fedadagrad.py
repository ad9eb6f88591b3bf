"""FedAdagrad (Reddi et al., Adaptive Federated Optimization, ICLR 2021): v <- v + d^2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpc_fl.strategies.adaptive import Adaptive


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """The sum of the squared updates, never forgotten. The paper uses beta1 = 0."""

    beta1: float = 0.0

    def second_moment(self, v: Tensor, square: Tensor) -> None:
        v.add_(square)
