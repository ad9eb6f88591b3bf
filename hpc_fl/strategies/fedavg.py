"""Federated averaging.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas: Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, algorithm 1. x <- x + lr * sum_i w_i (x_i - x) / sum_i w_i.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpc_fl.strategies.strategy import Averaging, State, Weighting


@dataclass(frozen=True)
class FedAvg(Averaging):
    """``lr`` 1 is plain averaging; ``weighting``: by samples, or every party alike."""

    lr: float = 1.0
    weighting: Weighting = "samples"

    def step(self, params: Tensor, update: Tensor, state: State) -> None:
        params.add_(update, alpha=self.lr)
