"""CHOCO-Gossip: compressed differences to public copies.

Koloskova, Stich, Jaggi: Decentralized Stochastic Optimization and Gossip Algorithms with Compressed
Communication, ICML 2019, in the memory-efficient form (algorithm 6 of the appendix). A node keeps its public
copy h_i and z_i = sum_j w_ij (h_j - h_i)::

    q_i = Q(x_i - h_i)                           is sent
    h_i = h_i + q_i
    z_i = z_i + sum_j w_ij q_j - (1 - w_ii) q_i
    x_i = x_i + gamma z_i
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import torch
from torch import Tensor

from hpc_fl.backends import Array
from hpc_fl.collectives.gossip_encoded import Arrivals, EncodedGossip, detached
from hpc_fl.collectives.mixer import NodeStates, Placement
from hpc_fl.collectives.routes import Routes
from hpc_fl.collectives.steps import usual_gamma
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Kept, Payload
from hpc_fl.compression.arrays import as_array, as_tensor
from hpc_fl.compression.base import Base
from hpc_fl.compression.reading import Reading
from hpc_fl.errors import CodecError, TransportError
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import MixingMatrix

_PUBLIC: Final = "public"
_PULL: Final = "pull"
_PIECE: Final = 1 << 17
"""Elements of a piece: it stays in the cache."""
_TOGETHER: Final = 4
"""Payloads of all elements that are held, at most, to be added in one pass."""

AddPart = Callable[[float, int, Array], None]


@dataclass
class _Copies:
    """``unsaid`` (n,): -h_i, which, added to x_i, leaves what the neighbours do not know; ``pull`` (n,): z_i;
    ``hints``: what the codec found last time.
    """

    unsaid: Tensor
    pull: Tensor
    hints: Kept = field(default_factory=dict)


class ChocoMixer(EncodedGossip):
    """See above; for one matrix, whose columns sum to one, and any codec that contracts.

    ``gamma``: the consensus step, above 0, 1 at most; the harder the codec compresses, the smaller it has to
    be. None: :func:`hpc_fl.collectives.steps.usual_gamma`. Keeps two buffers (n,) for each node hosted here,
    however many neighbours it has. A node that is left out keeps its public copy, and so do its neighbours.

    Raises :class:`CodecError` for a codec that does not contract, for another gamma, and for rows of another
    length than before; :class:`TransportError` for another matrix than that of the calls since the last
    reset.
    """

    name: ClassVar[str] = "choco"

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        placement: Placement,
        codec: Base,
        *,
        gamma: float | None = None,
    ) -> None:
        if gamma is not None and not 0 < gamma <= 1:
            raise CodecError(f"choco gossip: gamma = {gamma} given; above 0 and at most 1 expected")
        super().__init__(transport, ledger, placement, codec)
        self._gamma = gamma
        self._kept: dict[int, _Copies] = {}
        self._matrix: MixingMatrix | None = None
        self._difference = torch.empty(0)

    def _begin(self, rows: Tensor, routes: Routes) -> None:
        n = rows.shape[1]
        if self._codec.contraction(n) is None:
            raise CodecError(
                f"choco gossip: {self._codec.name} gives no share of {n} elements for sure; use one that "
                "does (top-k, one bit, qsgd of 8 bits), or DeepSqueeze"
            )
        if self._matrix is not None and self._matrix is not routes.matrix and self._matrix != routes.matrix:
            raise TransportError(
                "choco gossip: another mixing matrix than before, for which what was kept is of no use; "
                "call reset() on all ranks, or take DeepSqueeze where the topology changes"
            )
        self._matrix = routes.matrix
        if self._gamma is None:
            self._gamma = usual_gamma(self._codec, n)
        for node in self._nodes:
            if node not in self._kept:
                self._kept[node] = _Copies(torch.zeros_like(rows[0]), torch.zeros_like(rows[0]))
            kept = self._kept[node]
            if kept.unsaid.numel() != n:
                raise CodecError(
                    f"choco gossip: rows of {n} elements, node {node} had {kept.unsaid.numel()}: use one "
                    "mixer for each buffer, or call reset() on all ranks"
                )
            kept.unsaid, kept.pull = kept.unsaid.to(rows.device), kept.pull.to(rows.device)
            kept.hints = {name: hint.to(rows.device) for name, hint in kept.hints.items()}
        if self._difference.numel() != n or self._difference.device != rows.device:
            self._difference = torch.empty(n, device=rows.device)

    def _encode(self, node: int, x: Tensor, round_: int) -> Payload:
        kept, spare = self._kept[node], self._difference
        return detached(self._codec.at(round_, node).encode_sum(x, kept.unsaid, spare, kept.hints), spare)

    def _apply(self, rows: Tensor, routes: Routes, own: list[Payload | None], arrivals: Arrivals) -> None:
        kept = [self._kept[node] for node in self._nodes]
        pulls = [_Pull(as_array(one.pull)) for one in kept]
        for row, payload in enumerate(own):
            if payload is not None:
                reading = self._codec.read(payload, as_array(rows[row]))
                reading.add(-1.0, as_array(kept[row].unsaid))
                for taker, weight in ((row, routes.weights[row, row] - 1.0), *routes.inside[row]):
                    pulls[taker].take(weight, reading)
        for takers, arrived in arrivals.readings():
            if arrived is not None:
                for taker, weight in takers:
                    pulls[taker].take(weight, arrived)
        assert self._gamma is not None
        for row, pull in enumerate(pulls):
            pull.move(rows[row] if own[row] is not None else None, self._gamma)

    def agree(self, values: Tensor) -> None:
        """All public copies are ``values`` (n,): differences to what all nodes hold need not travel. Every
        rank must call it, with the same bits.
        """
        self.reset()
        self._kept = {node: _Copies(-values, torch.zeros_like(values)) for node in self._nodes}

    def state(self) -> NodeStates:
        """``public`` and ``pull``, h_i and z_i of each node hosted here (n,)."""
        return {node: {_PUBLIC: -kept.unsaid, _PULL: kept.pull} for node, kept in self._kept.items()}

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`; other nodes' are passed over. Every rank must call it, with states
        of the same round, and go on with the same matrix.
        """
        self.reset()
        self._kept = {
            node: _Copies(-state[node][_PUBLIC], state[node][_PULL].clone())
            for node in self._nodes
            if node in state
        }

    def reset(self) -> None:
        """Forgets all copies and the matrix. Every rank must call it."""
        self._kept, self._matrix = {}, None


class _Pull:
    """z_i, ``pull``, to which decoded payloads are added: several in one pass, piece by piece."""

    def __init__(self, pull: Array) -> None:
        self._pull = pull
        self._waiting: list[tuple[float, AddPart]] = []

    def take(self, weight: float, reading: Reading) -> None:
        """z += weight * the decoded payload, now or in the next pass."""
        if reading.add_part is None:
            reading.add(weight, self._pull)
            return
        self._waiting.append((weight, reading.add_part))
        if len(self._waiting) == _TOGETHER:
            self.move(None, 0.0)

    def move(self, x: Tensor | None, gamma: float) -> None:
        """What waits is added; then x += gamma z, where there is an x."""
        if x is None and not self._waiting:
            return
        for start in range(0, self._pull.size, _PIECE):
            piece = self._pull[start : start + _PIECE]
            for weight, add_part in self._waiting:
                add_part(weight, start, piece)
            if x is not None:
                x[start : start + _PIECE].add_(as_tensor(piece), alpha=gamma)
        self._waiting.clear()
