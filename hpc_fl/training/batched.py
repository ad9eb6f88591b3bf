"""The executor that trains many parties at once, as rows of one buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.data.parties import PartyStore
from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training.batches import LocalSteps, plan_batches
from hpc_fl.training.executor import Correction, LocalWork, Received, Trained, rows_of, step_count
from hpc_fl.training.graph import PartySteps
from hpc_fl.training.group import Descent, Group, Losses, Rows
from hpc_fl.training.group_batches import GroupBatches, width_of

MAX_PARTIES: Final = 128
MAX_BYTES: Final = 32 << 20
"""A group's parameters stay within these bounds: beyond, arithmetic dominates and a larger group gains
nothing.
"""

EXACT_WIDTHS: Final = 16
"""So many different group sizes are computed at exactly their width; further ones at a common, larger width.
"""


class VmapExecutor:
    """Groups of parties trained side by side; equals :class:`LoopExecutor` up to the rounding of batched
    products.

    Parties are grouped by their number of steps, longest first, so that few rows idle. A step is traced once
    for each width; as parties finish, a group narrows to the next of a few widths (:func:`width_of`). Memory:
    about three buffers of (width, n) float32, at most 3 x 32 MB unless a single model is larger. Raises
    :class:`ModelError` where the model or the optimiser cannot be batched.
    """

    name = "vmap"

    def __init__(self, model: FlatModel, store: PartyStore, work: LocalWork) -> None:
        if not work.optimizer.elementwise:
            raise ModelError(
                f"executor vmap: {work.optimizer.name} needs each matrix by itself; use executor loop"
            )
        self._model = model
        self._store = store
        self._work = work
        self._count = step_count(work)
        self._steps = PartySteps(model, work.loss)
        self._exact: set[int] = set()
        self._limit = max(1, min(MAX_PARTIES, MAX_BYTES // (4 * model.n)))
        self._descends = work.optimizer.plain_sgd and work.clip_norm is None and not work.gradient_only

    def train(
        self, party_ids: Sequence[int], received: Received, round_: int, correction: Correction | None = None
    ) -> Iterator[Trained]:
        starts, counts = self._store.extents(party_ids)
        for chosen in _groups(self._count, counts.tobytes(), self._limit):
            ids = [party_ids[i] for i in chosen]
            extents = starts[chosen], counts[chosen]
            yield self._train_group(ids, extents, rows_of(received, chosen), round_, correction)

    @torch.no_grad()
    def _train_group(
        self,
        ids: list[int],
        extents: tuple[NDArray[np.int64], NDArray[np.int64]],
        received: Tensor,
        round_: int,
        correction: Correction | None,
    ) -> Trained:
        starts, counts = extents
        plan = plan_batches(self._count, counts, ids, self._work.seed, round_)
        width = self._first_width(len(ids))
        plain = self._descends and correction is None
        # Without autograd's book-keeping an operation takes a tenth less; torch's optimisers want it.
        with torch.inference_mode() if plain else nullcontext():
            group: Group
            if plain:
                lr = self._work.optimizer.learning_rate(round_)
                group = Descent(self._model, self._steps, received, width, lr)
            else:
                group = Rows(self._model, self._steps, self._work, ids, received, width, round_, correction)
            batches = GroupBatches(self._store, self._steps, starts, plan, width)
            total = _steps_of(group, batches, Losses(self._steps, batches, width, received.device))
        steps = torch.from_numpy(np.maximum(plan.steps, 1)).to(received.device)
        loss = (total[: len(ids)] / steps).float()
        return Trained(tuple(ids), group.update(len(ids)), loss, counts, plan.steps)

    def _first_width(self, parties: int) -> int:
        if len(self._exact) < EXACT_WIDTHS:
            self._exact.add(parties)
        return parties if parties in self._exact else width_of(parties)


def _steps_of(group: Group, batches: GroupBatches, losses: Losses) -> Tensor:
    """Takes all local steps; gives each row's sum of losses (width,)."""
    for step in range(batches.steps):
        batch = batches[step]
        if batch.width < group.width:
            group.narrow(batch.width)
        losses.add(group.step(batch))
    losses.settle()
    return losses.sums


@lru_cache(maxsize=32)
def _groups(work: LocalSteps, packed_counts: bytes, limit: int) -> list[list[int]]:
    """Parties with so many samples (packed int64) by falling number of steps, in groups of at most ``limit``:
    their places.
    """
    steps = work.total(np.frombuffer(packed_counts, dtype=np.int64))
    order = np.argsort(-steps, kind="stable").tolist()
    return [order[first : first + limit] for first in range(0, len(order), limit)]
