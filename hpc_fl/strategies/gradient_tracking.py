"""Gradient tracking: every party follows an estimate of all parties' mean gradient.

Di Lorenzo, Scutari: NEXT, IEEE TSIPN 2016; Nedic, Olshevsky, Shi: Achieving Geometric Convergence for
Distributed Optimization over Time-Varying Graphs, SIAM J. Optim. 2017; with local steps: Liu, Lin, Koloskova,
Stich: Decentralized Gradient Tracking with Local Steps, 2023 (K-GT). Local steps follow g + c_i. With G_i the
mean of the round's local gradients g, and u_i what the local work adds to x_i:

    x_i <- sum_j w_ij (x_j + u_j)      y_i = G_i + c_i      c_i <- sum_j w_ij y_j - G_i

The corrections c_i sum to zero over the parties, as they do at first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hpc_fl.strategies.decentralised import Gossip, Local, Own
from hpc_fl.strategies.strategy import PartyStates
from hpc_fl.training.executor import Correction

_TRACKER: Final = "tracker"
_CORRECTION: Final = "correction"
_GRADIENTS: Final = "gradients"
_STEPS: Final = "steps"


@dataclass(frozen=True)
class _Tracked:
    """g + c, with g added up."""

    kept: PartyStates

    def __call__(self, party_ids: Sequence[int], params: Tensor, grads: Tensor, received: Tensor) -> None:
        for party, row in zip(party_ids, grads.view(len(party_ids), -1), strict=True):
            mine = self.kept[party]
            mine[_GRADIENTS].add_(row)
            mine[_STEPS] += 1
            row.add_(mine[_CORRECTION])


@dataclass(frozen=True)
class GradientTracking(Gossip):
    """Mixes ``tracker`` (n,), y above with zeros for averaged buffers, besides the model: twice the bytes.

    Kept: ``correction`` (c) and ``gradients``, the sum of the round's local gradients, (trainable,) each, and
    their number.
    """

    def travels(self, n: int) -> Mapping[str, int]:
        return {_TRACKER: n}

    def begin(self, own: Own, trainable: int) -> None:
        own.kept[_CORRECTION] = torch.zeros_like(own.model[:trainable])
        own.kept[_GRADIENTS] = torch.zeros_like(own.model[:trainable])
        own.kept[_STEPS] = torch.zeros(1)

    def bereave(self, own: Own, trainable: int) -> None:
        own.kept[_CORRECTION].zero_()  # they sum to zero over those that remain, too

    def correction(self, kept: PartyStates) -> Correction | None:
        return _Tracked(kept)

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        own.model.add_(local.update)
        mean = own.kept[_GRADIENTS]
        steps = own.kept[_STEPS].item()
        if local.sound and steps:
            mean.div_(steps)
        else:
            mean.zero_()
        torch.add(mean, own.kept[_CORRECTION], out=own.mixed[_TRACKER][:trainable])

    def settle(self, own: Own, mixed: Tensor, rate: float, trainable: int) -> None:
        torch.sub(own.mixed[_TRACKER][:trainable], own.kept[_GRADIENTS], out=own.kept[_CORRECTION])
        own.kept[_GRADIENTS].zero_()
        own.kept[_STEPS].zero_()
