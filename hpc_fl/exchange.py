"""Codec and collective as one function: the updates of all parties -> their weighted mean on every rank.

::

    outbox  [ buffer 1 (n) | buffer 2 (n) | ... | tail ]    one float32 buffer, one message

Each party's buffers are added to the outbox times the party's share of the weight; the sum over ranks is the
mean, scaled up where parties were left out. The tail carries what every rank must know at the same moment:
the weight that entered, the training loss, how many parties were left out, whether to stop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.collective import Collective, Handle
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.codec import Codec
from hpc_fl.errors import ConfigError

_TAIL: Final = 5
"""Weight, weighted loss, parties, parties left out, stop."""


@dataclass(frozen=True)
class Mixed:
    """The result of an exchange, identical bits on every rank.

    ``buffers``: each buffer's weighted mean (n,), views that live until the next round is opened; zeros where
    no party contributed. ``weight``: the sum of the weights that entered, rounded to float32; ``loss``: the
    weighted mean training loss, NaN where no party contributed; ``parties``: how many entered; ``left_out``:
    the ids of those that did not because their update was not finite; ``stop``: whether some rank asked to
    stop.
    """

    buffers: Mapping[str, Tensor]
    weight: float
    loss: float
    parties: int
    left_out: tuple[int, ...]
    stop: bool


class Exchange:
    """The mean over all parties of ``names`` buffers of ``n`` float32 each.

    A round: :meth:`open`, :meth:`add` for the parties hosted here, then :meth:`mix`, or :meth:`start` and
    ``wait()`` on what it returns. Raises :class:`ConfigError` for a codec whose payloads the collective
    cannot carry.
    """

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        collective: Collective,
        *,
        n: int,
        names: Sequence[str],
        device: torch.device,
    ) -> None:
        if not collective.accepts(codec):
            raise ConfigError(
                f"exchange.codec: {codec.name} cannot travel by exchange.collective: {collective.name}"
            )
        self._transport, self._collective = transport, collective
        self._outbox = torch.zeros(n * len(names) + _TAIL, device=device)
        self._buffers = {name: self._outbox[i * n : (i + 1) * n] for i, name in enumerate(names)}
        self._tail = self._outbox[n * len(names) :]
        self._sums = np.zeros(3)  # weight, weighted loss, parties
        self._left_out: list[int] = []
        self._total = 1.0

    def open(self, total: float) -> None:
        """Begins a round; the buffers of the last result are overwritten.

        ``total``: the sum of the weights of all parties expected on all ranks. Weights are divided by it
        before the sum, which then is a mean: large but finite updates cannot overflow it.
        """
        self._total = total if total > 0 else 1.0
        self._outbox.zero_()
        self._sums[:] = 0.0
        self._left_out.clear()

    def add(
        self,
        party_ids: Sequence[int],
        buffers: Mapping[str, Tensor],
        weights: NDArray[np.float32],
        losses: Tensor,
    ) -> None:
        """Adds B parties: ``buffers`` (B, n) by name, ``weights`` (B,), ``losses`` (B,) float32.

        A party with a NaN or an infinity in a buffer or in its loss is left out whole, and named in the
        result.
        """
        if not _all_finite(losses, buffers):
            finite = torch.stack([losses.isfinite(), *(finite_rows(b) for b in buffers.values())]).all(0)
            self._left_out += [p for p, ok in zip(party_ids, finite.tolist(), strict=True) if not ok]
            buffers = {name: b[finite] for name, b in buffers.items()}
            weights, losses = weights[finite.cpu().numpy()], losses[finite]
        if not len(weights):
            return
        scale = torch.from_numpy(weights / np.float32(self._total)).to(losses.device)
        for name, rows in buffers.items():
            _accumulate(self._buffers[name], rows, scale)
        self._sums += (float(weights.sum()), float(torch.dot(scale, losses)), len(weights))

    def mix(self, *, stop: bool = False) -> Mixed:
        """Sums over the ranks and waits; every rank must call it."""
        self._close(stop)
        self._collective.allreduce(self._outbox)
        return self._result()

    def start(self, *, stop: bool = False) -> Pending:
        """Begins to; local work may go on until ``wait()``. Every rank must call both."""
        self._close(stop)
        return Pending(self, self._collective.start(self._outbox))

    def _close(self, stop: bool) -> None:
        self._tail.copy_(torch.tensor([*self._sums, len(self._left_out), float(stop)]))

    def _result(self) -> Mixed:
        weight, loss, parties, left_out, stop = self._tail.tolist()
        # Nobody was left out in most rounds: then the sum is the mean already.
        if 0 < weight != self._total:
            for buffer in self._buffers.values():
                buffer.mul_(self._total / weight)
        return Mixed(
            self._buffers,
            weight,
            loss * self._total / weight if weight > 0 else float("nan"),
            round(parties),
            self._names_of_left_out() if left_out else (),
            stop > 0,
        )

    def _names_of_left_out(self) -> tuple[int, ...]:
        lists = allgather_bytes(self._transport, json.dumps(self._left_out).encode())
        return tuple(sorted(party for ids in lists for party in json.loads(ids)))


@dataclass(frozen=True)
class Pending:
    """An exchange under way."""

    _exchange: Exchange
    _handle: Handle

    def wait(self) -> Mixed:
        """The result; every rank must call it, in the order of the ``start`` calls."""
        self._handle.wait()
        return self._exchange._result()


def _all_finite(losses: Tensor, buffers: Mapping[str, Tensor]) -> bool:
    """Whether all is surely finite: a finite sum proves finite terms; large finite ones may overflow it."""
    total = losses.sum()
    for rows in buffers.values():
        total = total + rows.sum()
    return math.isfinite(total.item())


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows of (B, n) hold neither NaN nor infinity; (B,) bool.

    A finite sum proves finite terms. An infinite one may be the overflow of large but finite terms: only then
    are they looked at.
    """
    finite = rows.sum(1).isfinite()
    for row in (~finite).nonzero().flatten().tolist():
        finite[row] = rows[row].isfinite().all()
    return finite


def _accumulate(total: Tensor, rows: Tensor, weights: Tensor) -> None:
    """total += weights @ rows, in one pass over ``rows`` (B, n)."""
    if len(rows) == 1:
        total.add_(rows[0], alpha=weights[0].item())
    else:
        total.addmv_(rows.t(), weights)
