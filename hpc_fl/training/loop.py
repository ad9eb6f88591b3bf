"""The executor that trains one party after another: any model, any optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from hpc_fl.counter import key
from hpc_fl.data.parties import PartyStore
from hpc_fl.flat import FlatModel
from hpc_fl.training.batches import plan_batches
from hpc_fl.training.executor import Correction, LocalWork, Received, Trained, step_count
from hpc_fl.training.parties import LocalBuffers
from hpc_fl.training.seeding import Stream


class LoopExecutor:
    """One party at a time in the one model of the rank; memory does not grow with the number of parties.

    The torch generator is seeded per party and round, so that dropout masks do not depend on which rank hosts
    the party.
    """

    name = "loop"

    def __init__(self, model: FlatModel, store: PartyStore, work: LocalWork, buffers: LocalBuffers) -> None:
        self._model = model
        self._store = store
        self._work = work
        self._buffers = buffers

    def train(
        self, party_ids: Sequence[int], received: Received, round_: int, correction: Correction | None = None
    ) -> Iterator[Trained]:
        self._model.module.train()
        for place, party_id in enumerate(party_ids):
            values = received if isinstance(received, Tensor) else received[place]
            yield self._train_one(party_id, values, round_, correction)

    def _train_one(
        self, party_id: int, received: Tensor, round_: int, correction: Correction | None
    ) -> Trained:
        model, work = self._model, self._work
        torch.default_generator.manual_seed(key(work.seed, Stream.LOCAL, round_, party_id))
        counts = np.array([self._store.samples(party_id)])
        plan = plan_batches(step_count(work), counts, [party_id], work.seed, round_)
        model.load(received)
        self._buffers.enter(party_id)
        stepper = _Stepper(model, work, party_id, received, round_, correction)
        x, y = self._store[party_id]
        total = torch.zeros((), device=model.device)
        for step in range(int(plan.steps[0])):
            rows = torch.from_numpy(plan.rows[step, 0, : plan.sizes[step, 0]]).to(x.device)
            outputs = model(x.index_select(0, rows))
            loss = work.loss.per_sample(outputs, y.index_select(0, rows)).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.step()
            total += loss.detach()
        self._buffers.leave(party_id)
        model.collect_buffers()
        update = stepper.update()
        return Trained(
            (party_id,), update.unsqueeze(0), (total / max(1, plan.steps[0])).reshape(1), counts, plan.steps
        )


class _Stepper:
    """What follows each backward pass: correction, clipping, the optimiser."""

    def __init__(
        self,
        model: FlatModel,
        work: LocalWork,
        party_id: int,
        received: Tensor,
        round_: int,
        correction: Correction | None,
    ) -> None:
        self._model, self._work, self._correction = model, work, correction
        self._party, self._received = (party_id,), received
        # The flat gradient costs one more pass over memory: only where something reads or changes it as a
        # whole.
        self._gathers = (
            correction is not None or work.clip_norm is not None or work.gradient_only or not model.plain
        )
        self._leaves = self._master_leaves() if self._gathers else list(model.parameters)
        self._optimizer = work.optimizer.stepper(self._leaves, work.optimizer.learning_rate(round_))

    def _master_leaves(self) -> list[Tensor]:
        """The float32 values as leaves whose gradients are the flat gradient: one flat tensor where the
        optimiser is element-wise, else (Muon, Adafactor) each parameter's own matrix.
        """
        model = self._model
        if self._work.optimizer.elementwise:
            leaves, grads = [model.params], [model.grads]
        else:
            leaves = [segment.of(model.params) for segment in model.segments]
            grads = [segment.of(model.grads) for segment in model.segments]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad
        return leaves

    @torch.no_grad()
    def step(self) -> None:
        model, work = self._model, self._work
        if not self._gathers:
            self._optimizer.step()
            model.clear_grads()
            return
        grads = model.collect_grads()
        if self._correction is not None:
            self._correction(self._party, model.params, grads, self._received[: model.trainable])
        if work.clip_norm is not None:
            clip_rows_(grads.unsqueeze(0), work.clip_norm)
        if work.gradient_only:
            return
        self._optimizer.step()
        model.publish()

    @torch.no_grad()
    def update(self) -> Tensor:
        """Local values minus received ones, made in the model's own buffer; (n,)."""
        values = self._model.values.sub_(self._received)
        if self._work.gradient_only:
            torch.neg(self._model.grads, out=values[: self._model.trainable])
        return values


@torch.no_grad()
def clip_rows_(grads: Tensor, norm: float) -> None:
    """Scales each row of ``grads`` (B, n) in place to an L2 norm of at most ``norm``; smaller rows stay as
    they are, bit for bit.
    """
    norms = torch.linalg.vector_norm(grads, dim=1, keepdim=True)
    grads.mul_(torch.where(norms > norm, norm / norms, torch.ones_like(norms)))
