"""The batches of parties that train side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.data.parties import PartyStore
from hpc_fl.training.batches import BatchPlan
from hpc_fl.training.graph import PartySteps


class Batch(NamedTuple):
    """One step: ``x`` (width, b, ...), good until the next; ``targets`` as the loss wants them; ``active``
    rows still train.
    """

    x: Tensor
    targets: Sequence[Tensor]
    active: int
    width: int


class GroupBatches:
    """The steps of a group, step-major: what one step needs is one run of memory.

    ``starts``: each party's first row in ``store``, parties by falling number of steps; ``width``: rows that
    the group starts with, at least as many as parties. The samples of a step are gathered where those of the
    step before it were, so that they stay in the cache.
    """

    def __init__(
        self, store: PartyStore, steps: PartySteps, starts: NDArray[np.int64], plan: BatchPlan, width: int
    ) -> None:
        self._store, self._width = store, width
        self.steps = len(plan.rows)
        self._active = plan.active
        rows, weights = (
            torch.from_numpy(a).to(store.x.device) for a in _padded(starts[:, None], plan, width)
        )
        y = store.y.index_select(0, rows.flatten()).view(*rows.shape, *store.y.shape[1:])
        self._targets = steps.targets(y, weights)
        self._by_step = list(zip(*(target.unbind(0) for target in self._targets), strict=True))
        self._rows = rows.flatten(1).unbind(0)
        b = rows.shape[2]
        self._samples = store.x.new_empty((width * b, *store.x.shape[1:]))
        self._x = self._samples.view(width, b, *store.x.shape[1:])

    def __getitem__(self, step: int) -> Batch:
        active = self._active[step]
        width = min(self._width, width_of(active))
        if width == self._width:
            torch.index_select(self._store.x, 0, self._rows[step], out=self._samples)
            return Batch(self._x, self._by_step[step], active, width)
        samples = width * self._x.shape[1]
        torch.index_select(self._store.x, 0, self._rows[step][:samples], out=self._samples[:samples])
        return Batch(self._x[:width], [target[:width] for target in self._by_step[step]], active, width)

    def targets(self, first: int, last: int, width: int) -> list[Tensor]:
        """The targets of steps ``first`` to ``last`` - 1, (steps, width, b, ...) each."""
        if (first, last, width) == (0, self.steps, self._width):
            return list(self._targets)
        return [target[first:last, :width] for target in self._targets]


def _padded(
    starts: NDArray[np.int64], plan: BatchPlan, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Which row of the store each slot takes, and its weight, (S, width, b): rows past the parties repeat a
    sample at weight 0. ``starts`` (B, 1).
    """
    steps, parties, b = plan.rows.shape
    if parties == width:
        return np.add(plan.rows, starts, out=plan.rows), plan.weights
    rows = np.full((steps, width, b), starts[0], dtype=np.int64)
    np.add(plan.rows, starts, out=rows[:, :parties])
    weights = np.zeros((steps, width, b), dtype=np.float32)
    weights[:, :parties] = plan.weights
    return rows, weights


@lru_cache(maxsize=256)
def width_of(parties: int) -> int:
    """The rows that ``parties`` are computed with: 1, 2, 3, 4, 6, 8, 12, 16, ... (at most a third idle)."""
    width = 1
    while width < parties:
        width = width * 3 // 2 if width & (width - 1) == 0 and width > 1 else -(-width * 4 // 3)
    return width
