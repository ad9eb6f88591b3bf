"""Asynchronous decentralised parallel SGD, in rounds: train, then average with one neighbour at a time.

Lian, Zhang, Zhang, Liu: Asynchronous Decentralized Parallel Stochastic Gradient Descent, ICML 2018. Rounds
meet at their end, for the record; who is averaged with whom, and in which order, is nobody's plan. Without
rounds: :class:`hpc_fl.optimizers.AsynchronousOptimizer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpc_fl.strategies.decentralised import Gossip


@dataclass(frozen=True)
class ADPSGD(Gossip):
    """One party a rank; an undirected topology says who may be asked."""

    pairwise: ClassVar[bool] = True
