"""What every evaluation does: losses and hits of samples, and the ranks' findings put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.comm.transport import Buffer, ReduceOp, Transport
from hpc_fl.data.source import Int64Array, Source
from hpc_fl.flat import FlatModel
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.training.losses import Loss

Values = NDArray[np.float64]
Spread = Mapping[str, float]
"""``min``, ``mean``, ``max`` and ``std`` (of the whole population) over parties."""

_BATCH_BYTES: Final = 16 << 20
"""Inputs evaluated at once: larger batches gain nothing, and their activations would decide a rank's peak
memory.
"""


def read_samples(source: Source, indices: Int64Array, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x, y) of the samples at ``indices``, on ``device``."""
    x, y = (torch.from_numpy(array).to(device) for array in source.rows(indices))
    return x, y


def share_of(source: Source, transport: Transport) -> Int64Array:
    """The samples that this rank evaluates: with those of the other ranks each once, in order of rank."""
    return np.array_split(np.arange(len(source)), transport.size)[transport.rank]


class Measure:
    """Measures the model in ``model.values``; the caller puts the module into evaluation mode."""

    def __init__(self, model: FlatModel, loss: Loss, transport: Transport, ledger: Ledger) -> None:
        self._model, self._loss = model, loss
        self._transport, self._ledger = transport, ledger

    def samples(self, x: Tensor, y: Tensor) -> tuple[Values, Values]:
        """Each sample's loss, and its hit: the share of its positions predicted right, none for
        regression.
        """
        size = max(1, _BATCH_BYTES // max(1, x[:1].numel() * x.element_size()))
        losses, hits = [np.empty(0)], [np.empty(0)]
        for first in range(0, len(x), size):
            outputs, targets = self._model(x[first : first + size]), y[first : first + size]
            losses.append(self._loss.per_sample(outputs, targets).double().cpu().numpy())
            if self._loss.classifies:
                right = outputs.argmax(-1) == targets
                hits.append(
                    right.double().flatten(1).mean(1).cpu().numpy()
                    if right.dim() > 1
                    else right.double().cpu().numpy()
                )
        return np.concatenate(losses), np.concatenate(hits)

    def reduce(self, buf: Buffer, kind: str, op: ReduceOp = "sum") -> None:
        """Reduces ``buf`` over the ranks, charged as ``kind`` by the ring's formula; every rank must call
        it.
        """
        ranks = self._transport.size
        self._ledger.add(kind, -(-2 * (ranks - 1) * buf.nbytes // ranks))
        self._transport.allreduce(buf, op)

    def together(self, sums: Values, groups: Sequence[Values]) -> tuple[Values, list[Spread | None]]:
        """``sums`` over the ranks, and for each of ``groups`` (one value for each party here that has one)
        the spread over the parties of all ranks; None where no party has a value. Every rank must call it;
        all get the same.
        """
        moments = [np.array([v.sum(), np.square(v).sum(), len(v)]) for v in groups]
        message = np.concatenate([sums, *moments])
        self.reduce(message, "control")
        moments = np.split(message[len(sums) :], len(groups))
        if not any(count for _, _, count in moments):
            return message[: len(sums)], [None] * len(groups)
        ends = np.array([end for v in groups for end in (_largest(-v), _largest(v))])
        self.reduce(ends, "control", "max")
        return message[: len(sums)], [
            _spread(moment, -low, high)
            for moment, (low, high) in zip(moments, ends.reshape(-1, 2), strict=True)
        ]


def _largest(values: Values) -> float:
    return float(np.max(values, initial=-np.inf))


def _spread(moments: Values, low: float, high: float) -> Spread | None:
    total, squares, count = (float(moment) for moment in moments)
    if not count:
        return None
    mean = total / count
    # What MPI makes of the maximum with a NaN depends on the order; the sum is NaN on every rank.
    low, high = (mean, mean) if np.isnan(mean) else (low, high)
    variance = squares / count - mean * mean
    return {"min": low, "mean": mean, "max": high, "std": float(np.sqrt(np.maximum(variance, 0.0)))}
