"""Which samples a party sees in which local step: one plan for both executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hpc_fl.counter import extend_keys, key
from hpc_fl.training.seeding import Stream, permutations


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """How long a party trains in a round: so many ``epochs`` over its data, or so many ``steps`` if that is
    set.

    An epoch visits every sample once, in a new order, in batches of ``batch_size``; the last batch of an
    epoch may be smaller, and a party with fewer samples than ``batch_size`` takes one batch of all it has.
    ``steps`` starts new epochs as needed. ``batch_size`` None means the whole of the party's data.
    """

    batch_size: int | None
    epochs: int = 1
    steps: int | None = None

    def per_epoch(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Batches in one epoch for parties with ``counts`` samples."""
        size = counts if self.batch_size is None else np.full_like(counts, self.batch_size)
        return -(-counts // np.maximum(size, 1))

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Local steps of a round for parties with ``counts`` samples; a party without samples takes none."""
        if self.steps is None:
            return self.epochs * self.per_epoch(counts)
        return np.where(counts > 0, self.steps, 0)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batches of B parties over their local steps, S = the largest number of steps.

    ``rows`` (S, B, b) int64: indices into a party's own samples; ``sizes`` (S, B) int64: how many of the b
    are real (the rest repeat sample 0; 0 when the party has finished); ``weights`` (S, B, b) float32: a
    sample's share in its party's mean loss, 1/size where it is real and else 0; ``steps`` (B,) int64: steps
    of each party; ``active`` (S,): how many parties have not finished at each step. Only ``rows`` is the
    caller's to change.
    """

    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    weights: NDArray[np.float32]
    steps: NDArray[np.int64]
    active: tuple[int, ...]


def plan_batches(
    work: LocalSteps, counts: NDArray[np.int64], party_ids: Sequence[int], seed: int, round_: int
) -> BatchPlan:
    """The batches of these parties in this round; a party's do not depend on the others planned with it."""
    form = _form(work, counts.tobytes())
    base = np.array(key(seed, Stream.ORDER, round_), dtype=np.uint64)
    keys = extend_keys(base, np.array(party_ids, dtype=np.int64)[:, None])
    keys = extend_keys(keys, np.arange(form.epochs)[None, :]).reshape(-1)
    orders = permutations(keys, form.counts).reshape(-1)
    rows = orders.take(form.source) if orders.size else np.zeros_like(form.source)
    if not form.full:
        rows[~form.real] = 0
    return BatchPlan(rows, form.sizes, form.weights, form.steps, form.active)


@dataclass(frozen=True)
class _Form:
    """What stays from round to round: which place of which epoch's order each slot of a batch takes.

    ``counts`` (B * epochs,): samples of each order; ``source`` (S, B, b): index into the flattened orders of
    all parties and epochs; ``real`` (S, B, b): whether a slot holds a sample; ``full``: all do.
    """

    epochs: int
    counts: NDArray[np.int64]
    source: NDArray[np.int64]
    real: NDArray[np.bool_]
    full: bool
    sizes: NDArray[np.int64]
    weights: NDArray[np.float32]
    steps: NDArray[np.int64]
    active: tuple[int, ...]


@lru_cache(maxsize=32)
def _form(work: LocalSteps, packed_counts: bytes) -> _Form:
    """Kept for parties of the same sizes: with equal parties it is worked out once."""
    counts = np.frombuffer(packed_counts, dtype=np.int64)
    per_epoch, steps = work.per_epoch(counts), work.total(counts)
    longest = int(counts.max(initial=0))
    b = longest if work.batch_size is None else min(work.batch_size, longest)
    epochs = max(1, int((-(-steps // np.maximum(per_epoch, 1))).max(initial=0)))
    step = np.arange(int(steps.max(initial=0)))[:, None]
    epoch, batch = np.divmod(step, np.maximum(per_epoch, 1))
    size = np.full(len(counts), b) if work.batch_size is not None else counts
    first = batch * size
    sizes = np.where(step < steps, np.clip(counts - first, 0, size), 0)
    slot = np.arange(b)
    real = slot < sizes[:, :, None]
    order = np.arange(len(counts)) * epochs + np.minimum(epoch, epochs - 1)
    source = order[:, :, None] * longest + np.where(real, first[:, :, None] + slot, 0)
    weights = (real / np.maximum(sizes, 1)[:, :, None]).astype(np.float32)
    return _Form(
        epochs,
        np.repeat(counts, epochs),
        source,
        real,
        bool(real.all()),
        sizes,
        weights,
        steps,
        tuple((sizes > 0).sum(1).tolist()),
    )
