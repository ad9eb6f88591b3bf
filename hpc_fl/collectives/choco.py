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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from hpc_fl.collectives.gossip_encoded import Arrivals, EncodedGossip, Takers, detached
from hpc_fl.collectives.mixer import NodeStates, Placement
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.arrays import as_array
from hpc_fl.compression.base import Base
from hpc_fl.compression.reading import Reading
from hpc_fl.errors import CodecError, TransportError
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import MixingMatrix

_PUBLIC: Final = "public"
_PULL: Final = "pull"


@dataclass
class _Copies:
    """``public`` (n,): h_i, what the neighbours know of x_i; ``pull`` (n,): z_i."""

    public: Tensor
    pull: Tensor


class ChocoMixer(EncodedGossip):
    """See above; for one matrix, whose columns sum to one, and any codec that contracts.

    ``gamma``: the consensus step, above 0, 1 at most; the harder the codec compresses, the smaller it has to
    be. Keeps two buffers (n,) for each node hosted here, however many neighbours it has. A node that is left
    out keeps its public copy, and so do its neighbours.

    Raises :class:`CodecError` for a codec that does not contract, for another gamma, and for rows of another
    length than before; :class:`TransportError` for another matrix than that of the calls since the last
    reset.
    """

    name: ClassVar[str] = "choco"

    def __init__(
        self, transport: Transport, ledger: Ledger, placement: Placement, codec: Base, *, gamma: float
    ) -> None:
        if not 0 < gamma <= 1:
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
        for node in self._nodes:
            kept = self._kept.setdefault(node, _Copies(torch.zeros_like(rows[0]), torch.zeros_like(rows[0])))
            if kept.public.numel() != n:
                raise CodecError(
                    f"choco gossip: rows of {n} elements, node {node} had {kept.public.numel()}: use one "
                    "mixer for each buffer, or call reset() on all ranks"
                )
            kept.public, kept.pull = kept.public.to(rows.device), kept.pull.to(rows.device)
        if self._difference.numel() != n or self._difference.device != rows.device:
            self._difference = torch.empty(n, device=rows.device)

    def _encode(self, node: int, x: Tensor, round_: int) -> Payload:
        difference = torch.sub(x, self._kept[node].public, out=self._difference)
        return detached(self._codec.at(round_, node).encode(difference), difference)

    def _apply(self, rows: Tensor, routes: Routes, own: list[Payload | None], arrivals: Arrivals) -> None:
        kept = [self._kept[node] for node in self._nodes]

        def take(reading: Reading, takers: Takers) -> None:
            for row, weight in takers:
                reading.add(weight, as_array(kept[row].pull))

        for row, (payload, x) in enumerate(zip(own, rows, strict=True)):
            if payload is not None:
                reading = self._codec.read(payload, as_array(x))
                reading.add(1.0, as_array(kept[row].public))
                take(reading, ((row, routes.weights[row, row] - 1.0), *routes.inside[row]))
        for takers, arrived in arrivals.readings():
            if arrived is not None:
                take(arrived, takers)
        for row, x in enumerate(rows):
            if own[row] is not None:
                x.add_(kept[row].pull, alpha=self._gamma)

    def state(self) -> NodeStates:
        """``public`` and ``pull``, h_i and z_i of each node hosted here (n,)."""
        return {node: {_PUBLIC: kept.public, _PULL: kept.pull} for node, kept in self._kept.items()}

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`; other nodes' are passed over. Every rank must call it, with states
        of the same round, and go on with the same matrix.
        """
        self.reset()
        self._kept = {
            node: _Copies(state[node][_PUBLIC].clone(), state[node][_PULL].clone())
            for node in self._nodes
            if node in state
        }

    def reset(self) -> None:
        """Forgets all copies and the matrix. Every rank must call it."""
        self._kept, self._matrix = {}, None
