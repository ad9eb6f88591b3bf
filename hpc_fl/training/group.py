"""Parties that train side by side: their values, and what a step does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from hpc_fl.flat import FlatModel
from hpc_fl.training.executor import Correction, LocalWork
from hpc_fl.training.graph import PartySteps
from hpc_fl.training.group_batches import Batch, GroupBatches
from hpc_fl.training.loop import clip_rows_

KEEP_BYTES: Final = 8 << 20
"""What the steps keep for their losses up to this size becomes losses in one go."""


class Group(Protocol):
    """The first ``width`` rows of a group. Rows past the parties are like the first, and do not move: they
    have no gradient.
    """

    width: int

    def narrow(self, width: int) -> None:
        """Goes on with the first ``width`` rows: the others have finished."""
        ...

    def step(self, batch: Batch) -> Tensor:
        """A local step of all rows; gives what :meth:`PartySteps.losses` wants of it."""
        ...

    def update(self, parties: int) -> Tensor:
        """What the first ``parties`` rows moved by, (parties, n) of their own."""
        ...


class Descent:
    """Plain SGD: each parameter of all the parties is one run of memory, so that the pass that makes its
    gradient can change it. ``received`` (B, n).
    """

    def __init__(self, model: FlatModel, steps: PartySteps, received: Tensor, width: int, lr: float) -> None:
        self._steps, self._received, self._lr = steps, received, lr
        self.width = width
        self._segments = model.segments
        rows = _widened(received, width)
        self._all = [
            rows[:, s.start : s.stop].clone(memory_format=torch.contiguous_format).view(width, *s.shape)
            for s in self._segments
        ]
        self._step: Callable[..., Tensor] | None = None

    def narrow(self, width: int) -> None:
        self.width, self._step = width, None

    def step(self, batch: Batch) -> Tensor:
        # Rows that have finished have zero weights, hence zero gradients, and do not move.
        if self._step is None:
            parameters = [parameter[: self.width] for parameter in self._all]
            self._step = self._steps.descent(parameters, batch.x, batch.targets, self._lr)
        return self._step(batch.x, *batch.targets)

    def update(self, parties: int) -> Tensor:
        update = torch.empty_like(self._received, memory_format=torch.contiguous_format)
        for s, parameter in zip(self._segments, self._all, strict=True):
            columns = slice(s.start, s.stop)
            torch.sub(parameter[:parties].flatten(1), self._received[:, columns], out=update[:, columns])
        return update


class Rows:
    """Any other local work: values and gradients are rows (B, n), which optimiser, correction and clipping go
    over.
    """

    def __init__(
        self,
        model: FlatModel,
        steps: PartySteps,
        work: LocalWork,
        ids: Sequence[int],
        received: Tensor,
        width: int,
        round_: int,
        correction: Correction | None,
    ) -> None:
        self._model, self._steps, self._work, self._ids = model, steps, work, ids
        self._received, self._correction = received, correction
        self._lr = work.optimizer.learning_rate(round_)
        self.width = width
        self.values = _widened(received, width).clone(memory_format=torch.contiguous_format)
        self.grads = torch.zeros_like(self.values)
        self._views = self._views_of(self.values)
        self._leaf, self._optimizer = self._bind(None)

    def _views_of(self, values: Tensor) -> list[Tensor]:
        return [segment.of(values) for segment in self._model.segments]

    def _bind(self, old: torch.optim.Optimizer | None) -> tuple[Tensor, torch.optim.Optimizer | None]:
        """An optimiser over the first ``width`` rows, with the state that ``old`` had for them."""
        if self._work.gradient_only:
            return self.values, None
        leaf = self.values[: self.width].detach().requires_grad_()
        leaf.grad = self.grads[: self.width]
        optimizer = self._work.optimizer.make([leaf], self._lr)
        for state in [] if old is None else list(old.state.values()):
            optimizer.state[leaf] = {
                k: v[: self.width] if isinstance(v, Tensor) and v.dim() == leaf.dim() else v
                for k, v in state.items()
            }
        return leaf, optimizer

    def narrow(self, width: int) -> None:
        self.width = width
        self._views = self._views_of(self.values[:width])
        self._leaf, self._optimizer = self._bind(self._optimizer)

    def step(self, batch: Batch) -> Tensor:
        kept, found = self._steps.gradients(self._views, batch.x, batch.targets)
        grads = self.grads[: batch.width]
        torch.cat([g.flatten(1) for g in found], 1, out=grads[:, : self._model.trainable])
        active = batch.active
        if self._correction is not None:
            self._correction(
                self._ids[:active], self.values[:active], grads[:active], self._received[:active]
            )
        if self._work.clip_norm is not None:
            clip_rows_(grads[:active], self._work.clip_norm)
        if self._optimizer is not None:
            # Momentum and weight decay would move a finished row even without a gradient.
            finished = self.values[active : batch.width].clone()
            self._optimizer.step()
            self.values[active : batch.width] = finished
        return kept

    def update(self, parties: int) -> Tensor:
        if self._work.gradient_only:
            return self.grads[:parties].neg()
        return self.values[:parties].sub_(self._received)


class Losses:
    """The training loss of each of a group's rows, summed over the steps; worked out for many at once.

    ``sums`` (width,) is complete after :meth:`settle`.
    """

    def __init__(self, steps: PartySteps, batches: GroupBatches, width: int, device: torch.device) -> None:
        self._steps, self._batches = steps, batches
        self.sums = torch.zeros(width, device=device)
        self._kept: list[Tensor] = []
        self._first, self._most = 0, 1

    def add(self, kept: Tensor) -> None:
        """What the next step gave."""
        if self._kept and (len(self._kept) >= self._most or kept.shape != self._kept[0].shape):
            self.settle()
        if not self._kept:
            self._most = max(1, KEEP_BYTES // max(1, kept.nbytes))
        self._kept.append(kept)

    def settle(self) -> None:
        """Adds what is kept to the sums."""
        if not self._kept:
            return
        last, width = self._first + len(self._kept), len(self._kept[0])
        targets = self._batches.targets(self._first, last, width)
        self.sums[:width] += self._steps.losses(self._kept, targets)
        self._first = last
        self._kept.clear()


def _widened(received: Tensor, width: int) -> Tensor:
    """``received`` (B, n) with rows like the first behind it, (width, n); not to be written."""
    if len(received) == width:
        return received
    return torch.cat([received, received[:1].expand(width - len(received), -1)])
