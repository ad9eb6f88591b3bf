"""Decentralised parallel SGD: train, then average with the neighbours; or both at once.

Lian, Zhang, Zhang, Hsieh, Zhang, Liu: Can Decentralized Algorithms Outperform Centralized Algorithms?
NeurIPS 2017, algorithm 1. With u_i what the local work adds to x_i:

    x_i <- sum_j w_ij (x_j + u_j)             train, then mix (adapt, then combine)
    x_i <- sum_j w_ij x_j + u_i               mix while training (``overlap``; the paper's order)

With several local steps a round it is local SGD with gossip: Koloskova, Loizou, Boreiri, Jaggi, Stich: A
Unified Theory of Decentralized SGD with Changing Topology and Local Updates, ICML 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hpc_fl.strategies.decentralised import Gossip, Local, Own


@dataclass(frozen=True)
class DPSGD(Gossip):
    """``overlap``: models travel while the parties train, at the price of one buffer more a party."""

    overlap: bool = False

    @property
    def overlaps(self) -> bool:  # type: ignore[override]
        return self.overlap

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        if self.overlap:
            own.model.copy_(local.update)
        else:
            own.model.add_(local.update)

    def settle(self, own: Own, mixed: Tensor, rate: float, trainable: int) -> None:
        if self.overlap:
            own.model.add_(mixed)
