"""Measuring a model: on the held-out samples, and on each party's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.comm.transport import ReduceOp, Transport
from hpc_fl.data.parties import PartyStore
from hpc_fl.data.source import Source
from hpc_fl.flat import FlatModel
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.training.losses import Loss
from hpc_fl.training.parties import LocalBuffers

_BATCH_BYTES: Final = 16 << 20
"""Inputs evaluated at once: larger batches gain nothing, and their activations would decide a rank's peak
memory.
"""


@dataclass(frozen=True, slots=True)
class Scores:
    """``loss`` over the held-out samples; ``accuracy`` likewise, and its spread over parties; None for
    regression.
    """

    loss: float
    accuracy: float | None
    party_accuracy: Mapping[str, float] | None

    def record(self) -> dict[str, Any]:
        """The keys of a metrics record; absent where there is nothing to say."""
        pairs = {"loss": self.loss, "accuracy": self.accuracy, "party_accuracy": self.party_accuracy}
        return {k: v for k, v in pairs.items() if v is not None}


class Evaluator:
    """Evaluates the model in ``model.values``: each rank takes a share of the held-out samples and its own
    parties' samples.

    ``spread``: also the accuracy on every party's own (training) samples, as minimum, mean, maximum and
    standard deviation over parties that have samples. A model with ``local`` buffers is evaluated on held-out
    samples with the mean of the parties' ones.
    """

    def __init__(
        self,
        model: FlatModel,
        loss: Loss,
        test: Source,
        store: PartyStore,
        buffers: LocalBuffers,
        transport: Transport,
        ledger: Ledger,
        *,
        spread: bool,
    ) -> None:
        self._model, self._loss, self._transport = model, loss, transport
        self._store, self._buffers, self._ledger = store, buffers, ledger
        self._spread = spread and loss.classifies
        share = np.array_split(np.arange(len(test)), transport.size)[transport.rank]
        x, y = test.rows(share)
        self._x, self._y = (torch.from_numpy(a).to(model.device) for a in (x, y))

    @torch.no_grad()
    def __call__(self) -> Scores:
        """Every rank must call it; all get the same scores."""
        self._model.module.eval()
        sums = np.zeros(6)
        self._buffers.enter_mean(self._transport)
        losses, hits = self._measure(self._x, self._y)
        sums[:3] = losses.sum(), hits.sum(), len(losses)
        accuracies = self._party_accuracies() if self._spread else np.empty(0)
        sums[3:] = accuracies.sum(), np.square(accuracies).sum(), len(accuracies)
        self._reduce(sums, "sum")
        spread = self._spread_of(accuracies, sums[3:]) if self._spread and sums[5] else None
        count = max(1.0, sums[2])
        return Scores(
            float(sums[0] / count), float(sums[1] / count) if self._loss.classifies else None, spread
        )

    def _measure(self, x: Tensor, y: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Each sample's loss and hit (the share of its positions predicted right), float64."""
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

    def _party_accuracies(self) -> np.ndarray[Any, Any]:
        """One accuracy for each hosted party with samples; one pass over all rows unless parties have buffers
        of their own.
        """
        store = self._store
        occupied = store.counts > 0
        if not self._model.has_local_state:
            _, hits = self._measure(store.x, store.y)
            return (
                np.add.reduceat(hits, store.starts[occupied]) / store.counts[occupied]
                if occupied.any()
                else hits
            )
        means = []
        for party in np.asarray(store.party_ids)[occupied]:
            self._buffers.enter(int(party))
            means.append(self._measure(*store[int(party)])[1].mean())
        return np.array(means)

    def _reduce(self, values: np.ndarray[Any, Any], op: ReduceOp) -> None:
        ranks = self._transport.size
        self._ledger.add("control", -(-2 * (ranks - 1) * values.nbytes // ranks))
        self._transport.allreduce(values, op)

    def _spread_of(self, accuracies: np.ndarray[Any, Any], sums: np.ndarray[Any, Any]) -> dict[str, float]:
        ends = np.array([-np.min(accuracies, initial=1.0), np.max(accuracies, initial=0.0)])
        self._reduce(ends, "max")
        mean = sums[0] / sums[2]
        deviation = float(np.sqrt(max(0.0, sums[1] / sums[2] - mean * mean)))
        return {"min": float(-ends[0]), "mean": float(mean), "max": float(ends[1]), "std": deviation}
