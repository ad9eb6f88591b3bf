"""Exact diffusion, D2: gossip that parties with different data do not bias.

Yuan, Ying, Zhao, Sayed: Exact Diffusion for Distributed Optimization and Learning, part I, IEEE TSP 2019,
equations 20 to 22; Tang, Lian, Yan, Zhang, Liu: D2: Decentralized Training over Decentralized Data, ICML
2018. With u_i what the local work adds to x_i, psi_i that of the round before (x_i at first), W symmetric:

    psi_i' = x_i + u_i      x_i <- sum_j w'_ij (psi_j' + x_j - psi_j)      W' = (I + W) / 2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from hpc_fl.strategies.decentralised import Gossip, Local, Own

_BEFORE: Final = "psi"


@dataclass(frozen=True)
class D2(Gossip):
    """Kept: ``psi`` (n,), the party's model as its last local work left it."""

    lazy: ClassVar[bool] = True

    def begin(self, own: Own, trainable: int) -> None:
        own.kept[_BEFORE] = own.model.clone()

    def bereave(self, own: Own, trainable: int) -> None:
        own.kept[_BEFORE].copy_(own.model)

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        now = local.update.add_(own.model)
        own.model.add_(now).sub_(own.kept[_BEFORE])
        own.kept[_BEFORE].copy_(now)
