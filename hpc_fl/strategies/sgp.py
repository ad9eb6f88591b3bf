"""Stochastic gradient push: gossip over directed graphs, unbiased by push-sum.

Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push for Distributed Deep Learning, ICML 2019, algorithm
1; push-sum: Kempe, Dobra, Gehrke, FOCS 2003. With P column-stochastic, m_i a party's mass (1 at first), z_i
its model, u_i what the local work adds to it:

    x_i = m_i z_i + u_i      x_i <- sum_j p_ij x_j      m_i <- sum_j p_ij m_j      z_i <- x_i / m_i
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hpc_fl.strategies.decentralised import MASS, Gossip, Local, Own


@dataclass(frozen=True)
class SGP(Gossip):
    """The party's model is z; the numerator x is formed for the mixing only, in its place."""

    directed: ClassVar[bool] = True

    def travels(self, n: int) -> Mapping[str, int]:
        return {MASS: 1}

    def begin(self, own: Own, trainable: int) -> None:
        own.mixed[MASS].fill_(1.0)

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        own.model.mul_(own.mixed[MASS].item()).add_(local.update)

    def settle(self, own: Own, mixed: Tensor, rate: float, trainable: int) -> None:
        own.model.div_(own.mixed[MASS].item())
