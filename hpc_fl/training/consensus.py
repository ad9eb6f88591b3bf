"""Measuring parties that keep models of their own: each of them, their mean, and how far they are from it.

Consensus distance as in Kong, Lin, Koloskova, Jaggi, Stich: Consensus Control for Decentralized Deep
Learning, ICML 2021: sqrt(1/N sum_i ||x_i - xbar||^2).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hpc_fl.comm.transport import Transport
from hpc_fl.data.parties import PartyStore
from hpc_fl.data.source import Source
from hpc_fl.flat import FlatModel
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.training.evaluate import Scores
from hpc_fl.training.losses import Loss
from hpc_fl.training.measure import Measure, Values, read_samples, share_of
from hpc_fl.training.parties import LocalBuffers


class ConsensusEvaluator:
    """Evaluates the consensus model, the mean of the models of all ``parties`` (their number over all ranks),
    on the held-out samples, of which each rank takes a share.

    ``spread``: also every party's own model, on its own (training) samples where it has some, and on all
    held-out samples, which every rank then keeps in memory. ``local`` buffers are the party's own, and for
    the consensus model the mean of the parties' ones.

    Bytes a rank: "measuring" for the mean, 2(P-1)/P * 4n; "control" for the sums of the scores, likewise.
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
        parties: int,
        spread: bool,
    ) -> None:
        self._model, self._loss, self._transport = model, loss, transport
        self._store, self._buffers, self._parties = store, buffers, parties
        self._measure = Measure(model, loss, transport, ledger)
        self._held_out = read_samples(test, np.arange(len(test)), model.device) if spread else None
        self._share = (
            read_samples(test, share_of(test, transport), model.device)
            if self._held_out is None
            else tuple(part.tensor_split(transport.size)[transport.rank] for part in self._held_out)
        )

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Scores:
        """The scores of ``rows`` (B, n) float32: the models of the parties hosted here, in the order of the
        store's ``party_ids``. They are left as they are; the model is left with the consensus values.

        Every rank must call it; all get the same scores.
        """
        mean = self.mean(rows)
        squares = sum(float(torch.linalg.vector_norm(row - mean, dtype=torch.float64)) ** 2 for row in rows)
        self._model.module.eval()
        groups = self._own_models(rows)
        self._model.load(mean)
        self._buffers.enter_mean(self._transport)
        losses, hits = self._measure.samples(*self._share)
        sums = np.array([losses.sum(), hits.sum(), len(losses), squares])
        (loss, right, count, squares), spreads = self._measure.together(sums, groups)
        count = max(1.0, count)
        accuracy = float(right / count) if self._loss.classifies else None
        own, model_accuracy, model_loss = spreads
        return Scores(
            float(loss / count),
            accuracy,
            own,
            float(np.sqrt(squares / self._parties)),
            model_accuracy,
            model_loss,
        )

    @torch.no_grad()
    def mean(self, rows: Tensor) -> Tensor:
        """The consensus model (n,) float32 on the model's device, the same bits on every rank; every rank
        must call it with its ``rows`` (B, n).
        """
        total = torch.zeros(self._model.n, dtype=torch.float64, device=rows.device)
        for row in rows:
            total += row
        # Through the host: not every transport takes memory of a GPU.
        mean = (total / self._parties).float().cpu()
        self._measure.reduce(mean, "measuring")
        return mean.to(self._model.device)

    def _own_models(self, rows: Tensor) -> list[Values]:
        """Of the parties hosted here: the accuracies on their own samples, and the accuracies and losses on
        the held-out ones; a party that has no such value is absent.
        """
        groups: tuple[list[float], ...] = ([], [], [])
        if self._held_out is None:
            return [np.array(group) for group in groups]
        for party, row in zip(self._store.party_ids, rows, strict=True):
            self._model.load(row)
            self._buffers.enter(party)
            own = self._measure.samples(*self._store[party])[1] if self._loss.classifies else np.empty(0)
            losses, hits = self._measure.samples(*self._held_out)
            for group, values in zip(groups, (own, hits, losses), strict=True):
                if len(values):
                    group.append(float(values.mean()))
        return [np.array(group) for group in groups]
