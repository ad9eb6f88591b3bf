"""The executor that trains many parties at once, as rows of one buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.data.parties import PartyStore
from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training.batches import BatchPlan, plan_batches
from hpc_fl.training.executor import Correction, LocalWork, Received, Trained, rows_of, step_count
from hpc_fl.training.graph import PartyGradients
from hpc_fl.training.loop import clip_rows_

MAX_PARTIES: Final = 128
MAX_BYTES: Final = 32 << 20
"""A group's parameters stay within these bounds: beyond, arithmetic dominates and a larger group gains
nothing.
"""

GATHER_BYTES: Final = 8 << 20
"""Samples of a whole group's round up to this size are gathered in one call."""

EXACT_WIDTHS: Final = 16
"""So many different group sizes are computed at exactly their width; further ones at a common, larger width.
"""


class VmapExecutor:
    """Groups of parties trained side by side; equals :class:`LoopExecutor` up to the rounding of batched
    products.

    Parties are grouped by their number of steps, longest first, so that few rows idle. The
    gradient graph is traced once for each width; as parties finish, a group narrows to the next of a few
    widths (:func:`width_of`). Memory: about three buffers of (width, n) float32, at most 3 x 32 MB unless a
    single model is larger. Raises :class:`ModelError` where the model or the optimiser cannot be batched.
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
        self._gradients = PartyGradients(model, work.loss)
        self._exact: set[int] = set()
        self._limit = max(1, min(MAX_PARTIES, MAX_BYTES // (4 * model.n)))

    def train(
        self, party_ids: Sequence[int], received: Received, round_: int, correction: Correction | None = None
    ) -> Iterator[Trained]:
        counts = np.array([self._store.samples(p) for p in party_ids], dtype=np.int64)
        longest_first = np.argsort(-step_count(self._work).total(counts), kind="stable")
        if party_ids:  # frozen parameters and buffers are read from the module
            self._model.load(rows_of(received, [0])[0])
        for first in range(0, len(party_ids), self._limit):
            chosen = longest_first[first : first + self._limit].tolist()
            ids = [party_ids[i] for i in chosen]
            yield self._train_group(ids, counts[chosen], rows_of(received, chosen), round_, correction)

    def _first_width(self, parties: int) -> int:
        if len(self._exact) < EXACT_WIDTHS:
            self._exact.add(parties)
        return parties if parties in self._exact else width_of(parties)

    @torch.no_grad()
    def _train_group(
        self,
        ids: list[int],
        counts: NDArray[np.int64],
        received: Tensor,
        round_: int,
        correction: Correction | None,
    ) -> Trained:
        plan = plan_batches(step_count(self._work), counts, ids, self._work.seed, round_)
        width = self._first_width(len(ids))
        batches = _GroupBatches(self._store, self._gradients, ids, plan, width)
        group = _Group(self._model, self._gradients, self._work, width, received, round_)
        for step in range(batches.steps):
            group.step(ids, batches, step, correction)
        update = group.values[: len(ids)].sub_(received)
        if self._work.gradient_only:
            torch.neg(group.grads[: len(ids)], out=update)
        loss = group.loss[: len(ids)] / torch.from_numpy(np.maximum(plan.steps, 1)).to(update.device)
        return Trained(tuple(ids), update, loss.float(), counts, plan.steps)


def width_of(parties: int) -> int:
    """The rows that ``parties`` are computed with: 1, 2, 3, 4, 6, 8, 12, 16, ... (at most a third idle)."""
    width = 1
    while width < parties:
        width = width * 3 // 2 if width & (width - 1) == 0 and width > 1 else -(-width * 4 // 3)
    return width


@dataclass(frozen=True, slots=True)
class _Batch:
    """One step: ``x`` (width, b, ...), ``targets`` as the loss wants them; ``active`` rows still train."""

    x: Tensor
    targets: tuple[Tensor, ...]
    active: int
    width: int


class _GroupBatches:
    """The steps of a group, step-major: what one step needs is one run of memory.

    The samples of all steps are gathered at once where that is small, which saves a call per step.
    """

    def __init__(
        self, store: PartyStore, gradients: PartyGradients, ids: list[int], plan: BatchPlan, width: int
    ) -> None:
        self._store, self._width = store, width
        parties, self.steps, b = plan.rows.shape
        self._active = np.searchsorted(-plan.steps, -np.arange(self.steps)).tolist()
        starts = np.array([store.bounds(party)[0] for party in ids], dtype=np.int64)
        # Rows past the parties repeat a sample at weight 0.
        rows = np.full((self.steps, width, b), starts[0], dtype=np.int64)
        np.add(plan.rows.transpose(1, 0, 2), starts[:, None], out=rows[:, :parties])
        weights = np.zeros((self.steps, width, b), dtype=np.float32)
        sizes = plan.sizes.T[:, :, None]
        np.divide(np.arange(b) < sizes, np.maximum(sizes, 1), out=weights[:, :parties], casting="unsafe")
        self._rows = torch.from_numpy(rows).to(store.x.device)
        y = self._gather(store.y, self._rows)
        self._targets = gradients.targets(y, torch.from_numpy(weights).to(store.x.device))
        small = rows.size * store.x[:1].numel() * store.x.element_size() <= GATHER_BYTES
        self._x = self._gather(store.x, self._rows) if small else None

    @staticmethod
    def _gather(source: Tensor, rows: Tensor) -> Tensor:
        return source.index_select(0, rows.flatten()).view(*rows.shape, *source.shape[1:])

    def __getitem__(self, step: int) -> _Batch:
        active = self._active[step]
        width = min(self._width, width_of(active))
        if width == self._width:
            x = self._gather(self._store.x, self._rows[step]) if self._x is None else self._x[step]
            return _Batch(x, tuple(t[step] for t in self._targets), active, width)
        x = (
            self._gather(self._store.x, self._rows[step, :width])
            if self._x is None
            else self._x[step, :width]
        )
        return _Batch(x, tuple(t[step, :width] for t in self._targets), active, width)


class _Group:
    """The rows of a group: values, gradients, optimiser, losses; narrows as parties finish."""

    def __init__(
        self,
        model: FlatModel,
        gradients: PartyGradients,
        work: LocalWork,
        width: int,
        received: Tensor,
        round_: int,
    ) -> None:
        self._gradients, self._work = gradients, work
        self._trainable = model.trainable
        self._received = received
        self._lr = work.optimizer.learning_rate(round_)
        self._width = width
        # Rows past the parties are like the first: they have no gradient, and do not move.
        self.values = torch.cat([received, received[:1].expand(width - len(received), -1)])
        self.loss = self._loss_rows = torch.zeros(self._width, device=received.device)
        self._views = gradients.views(self.values)
        self._in_place = work.optimizer.plain_sgd and work.clip_norm is None and not work.gradient_only
        self.grads = self.values.new_empty(0) if self._in_place else torch.zeros_like(self.values)
        self._leaf, self._optimizer = self._bind(None)

    def _bind(self, old: torch.optim.Optimizer | None) -> tuple[Tensor, torch.optim.Optimizer | None]:
        """An optimiser over the first ``width`` rows, with the state that ``old`` had for them."""
        if self._in_place or self._work.gradient_only:
            return self.values, None
        leaf = self.values[: self._width].detach().requires_grad_()
        leaf.grad = self.grads[: self._width]
        optimizer = self._work.optimizer.make([leaf], self._lr)
        for state in [] if old is None else list(old.state.values()):
            optimizer.state[leaf] = {
                k: v[: self._width] if isinstance(v, Tensor) and v.dim() == leaf.dim() else v
                for k, v in state.items()
            }
        return leaf, optimizer

    def _narrow(self, width: int) -> None:
        self._width = width
        self._loss_rows = self.loss[:width]
        self._views = self._gradients.views(self.values[:width])
        self._leaf, self._optimizer = self._bind(self._optimizer)

    def step(
        self, ids: Sequence[int], batches: _GroupBatches, step: int, correction: Correction | None
    ) -> None:
        batch = batches[step]
        if batch.width < self._width:
            self._narrow(batch.width)
        loss, grads = self._gradients(self._views, batch.x, batch.targets)
        self._loss_rows.add_(loss)
        if self._in_place and correction is None:
            # Rows that have finished have zero weights, hence zero gradients, and do not move.
            torch._foreach_add_(self._views, grads, alpha=-self._lr)
            return
        self._flatten(grads, batch.width)
        self._update(ids, batch, correction)

    def _flatten(self, grads: list[Tensor], width: int) -> None:
        if not self.grads.numel():
            self.grads = torch.zeros_like(self.values)
        torch.cat([g.flatten(1) for g in grads], 1, out=self.grads[:width, : self._trainable])

    def _update(self, ids: Sequence[int], batch: _Batch, correction: Correction | None) -> None:
        active, grads = batch.active, self.grads[: batch.width]
        if correction is not None:
            correction(ids[:active], self.values[:active], grads[:active], self._received[:active])
        if self._work.clip_norm is not None:
            clip_rows_(grads[:active], self._work.clip_norm)
        if self._optimizer is None:
            if not self._work.gradient_only:
                self.values[:active].add_(grads[:active], alpha=-self._lr)
            return
        # Momentum and weight decay would move a finished row even without a gradient.
        finished = self.values[active : batch.width].clone()
        self._optimizer.step()
        self.values[active : batch.width] = finished
