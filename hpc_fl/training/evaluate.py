"""Measuring one model that all parties share: on the held-out samples, and on each party's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_fl.comm.transport import Transport
from hpc_fl.data.parties import PartyStore
from hpc_fl.data.source import Source
from hpc_fl.flat import FlatModel
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.training.losses import Loss
from hpc_fl.training.measure import Measure, Spread, Values, read_samples, share_of
from hpc_fl.training.parties import LocalBuffers


@dataclass(frozen=True, slots=True)
class Scores:
    """``loss`` over the held-out samples; ``accuracy`` likewise, None for regression; ``party_accuracy``: the
    spread over parties of the accuracy on their own samples.

    Where every party has a model of its own, ``loss`` and ``accuracy`` are those of the consensus model (the
    mean of all), ``party_accuracy`` is each party's own model on its own samples, ``model_accuracy`` and
    ``model_loss`` are the spread over parties of their own models' scores on the held-out samples, and
    ``consensus_distance`` is sqrt(1/N sum_i ||x_i - mean||^2).
    """

    loss: float
    accuracy: float | None
    party_accuracy: Spread | None
    consensus_distance: float | None = None
    model_accuracy: Spread | None = None
    model_loss: Spread | None = None

    def record(self) -> dict[str, Any]:
        """The keys of a metrics record; absent where there is nothing to say."""
        found = {field: getattr(self, field) for field in self.__slots__}
        return {k: v for k, v in found.items() if v is not None}


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
        self._store, self._buffers = store, buffers
        self._measure = Measure(model, loss, transport, ledger)
        self._spread = spread and loss.classifies
        self._share = read_samples(test, share_of(test, transport), model.device)

    @torch.no_grad()
    def __call__(self) -> Scores:
        """Every rank must call it; all get the same scores."""
        self._model.module.eval()
        self._buffers.enter_mean(self._transport)
        losses, hits = self._measure.samples(*self._share)
        accuracies = self._party_accuracies() if self._spread else np.empty(0)
        sums = np.array([losses.sum(), hits.sum(), len(losses)])
        (loss, right, count), (spread,) = self._measure.together(sums, [accuracies])
        count = max(1.0, count)
        return Scores(float(loss / count), float(right / count) if self._loss.classifies else None, spread)

    def _party_accuracies(self) -> Values:
        """One accuracy for each hosted party with samples; one pass over all rows unless parties have buffers
        of their own.
        """
        store = self._store
        occupied = store.counts > 0
        if not self._model.has_local_state:
            _, hits = self._measure.samples(store.x, store.y)
            return (
                np.add.reduceat(hits, store.starts[occupied]) / store.counts[occupied]
                if occupied.any()
                else hits
            )
        means = []
        for party in np.asarray(store.party_ids)[occupied]:
            self._buffers.enter(int(party))
            means.append(self._measure.samples(*store[int(party)])[1].mean())
        return np.array(means)
