"""Quasi-global momentum: momentum along the way that the mixed models go, not along the local gradients.

Lin, Karimireddy, Stich, Jaggi: Quasi-Global Momentum: Accelerating Decentralized Deep Learning on
Heterogeneous Data, ICML 2021, algorithm 1 (QG-DSGDm). Local steps follow g + beta m_i. After mixing, with
x_i' the new model and r = learning rate times local steps:

    m_i <- mu m_i + (1 - mu) (x_i - x_i') / r
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hpc_fl.strategies.decentralised import Gossip, Local, Own
from hpc_fl.strategies.strategy import PartyStates
from hpc_fl.training.executor import Correction

_MOMENTUM: Final = "momentum"
_BEFORE: Final = "before"


@dataclass(frozen=True)
class _Along:
    """g + beta m."""

    kept: PartyStates
    momentum: float

    def __call__(self, party_ids: Sequence[int], params: Tensor, grads: Tensor, received: Tensor) -> None:
        for party, row in zip(party_ids, grads.view(len(party_ids), -1), strict=True):
            row.add_(self.kept[party][_MOMENTUM], alpha=self.momentum)


@dataclass(frozen=True)
class QuasiGlobal(Gossip):
    """``momentum`` is beta, ``decay`` mu (the paper: the same). It takes the place of the local optimiser's
    momentum, which should be 0.

    Kept: ``momentum`` (trainable,), and ``before``: the model that the round started from.
    """

    momentum: float = 0.9
    decay: float = 0.9

    def begin(self, own: Own, trainable: int) -> None:
        own.kept[_MOMENTUM] = torch.zeros_like(own.model[:trainable])
        own.kept[_BEFORE] = own.model[:trainable].clone()

    def correction(self, kept: PartyStates) -> Correction | None:
        return _Along(kept, self.momentum)

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        own.kept[_BEFORE].copy_(own.model[:trainable])
        own.model.add_(local.update)

    def settle(self, own: Own, mixed: Tensor, rate: float, trainable: int) -> None:
        if rate > 0:
            way = own.kept[_BEFORE].sub_(mixed[:trainable])
            own.kept[_MOMENTUM].mul_(self.decay).add_(way, alpha=(1 - self.decay) / rate)
