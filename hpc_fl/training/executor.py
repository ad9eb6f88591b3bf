"""What every executor of local work takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.training.batches import LocalSteps
from hpc_fl.training.losses import Loss
from hpc_fl.training.optim import OptimizerSpec

Received: TypeAlias = Tensor | Sequence[Tensor]
"""The values that parties start from, (n,): the same for all, or for each party its own."""


@dataclass(frozen=True)
class LocalWork:
    """What one party does with the received model in one round.

    ``clip_norm``: each step's gradient is scaled to at most this L2 norm. ``gradient_only``: the party takes
    one batch and hands back minus its gradient instead of an update (synchronous SGD); optimiser and epochs
    are then not used.
    """

    steps: LocalSteps
    optimizer: OptimizerSpec
    loss: Loss
    seed: int
    clip_norm: float | None = None
    gradient_only: bool = False


class Correction(Protocol):
    """A strategy's change to every local gradient (FedProx, SCAFFOLD, ...), written with element-wise
    operations only.

    Called without gradient tracking before each local step, for one party (vectors of shape (trainable,)) or
    many ((B, trainable)); changes ``grads`` in place. ``received``: what they started from, of that shape or
    the same for all.
    """

    def __call__(self, party_ids: Sequence[int], params: Tensor, grads: Tensor, received: Tensor) -> None: ...


@dataclass(slots=True)
class Trained:
    """Parties that have finished their local work of a round.

    ``update`` (B, n) float32: local values minus received ones, the averaged buffers included. It is the
    caller's to overwrite, and valid until the next one is asked for. ``loss`` (B,) float32: each party's mean
    training loss over its steps. ``samples`` (B,): training samples of each party; ``steps`` (B,): local
    steps taken.
    """

    party_ids: tuple[int, ...]
    update: Tensor
    loss: Tensor
    samples: NDArray[np.int64]
    steps: NDArray[np.int64]


class Executor(Protocol):
    """Runs the local work of parties hosted on this rank; not a collective call."""

    name: str

    def train(
        self, party_ids: Sequence[int], received: Received, round_: int, correction: Correction | None = None
    ) -> Iterator[Trained]:
        """Trains each of ``party_ids`` from ``received``, which is not changed, and yields them as they
        finish. A party's own values may be overwritten once it has been yielded.

        ``round_`` counts from 0. Every party appears exactly once; the order is fixed by the arguments.
        """
        ...


def rows_of(received: Received, parties: Sequence[int]) -> Tensor:
    """What the parties at these places start from, (B, n); not to be written where it is the same for all."""
    if isinstance(received, Tensor):
        return received.expand(len(parties), -1)
    return torch.stack([received[place] for place in parties])


def step_count(work: LocalWork) -> LocalSteps:
    """The local steps that really are taken: one batch where only the gradient travels."""
    return LocalSteps(work.steps.batch_size, steps=1) if work.gradient_only else work.steps
