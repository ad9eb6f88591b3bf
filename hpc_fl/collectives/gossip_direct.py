"""Gossip of encoded rows in difference form: x_i += sum_j w_ij (Q(x_j) - Q(x_i)).

Carli, Fagnani, Frasca, Zampieri: Gossip Consensus Algorithms via Quantized Communication, Automatica 2010
(the form that keeps the mean); Aysal, Coates, Rabbat: Distributed Average Consensus with Dithered
Quantization, IEEE TSP 2008 (unbiased quantisers).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hpc_fl.collectives.gossip_encoded import Arrivals, EncodedGossip, Takers, detached
from hpc_fl.collectives.mixer import Placement
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Payload
from hpc_fl.compression.arrays import as_array
from hpc_fl.compression.base import Base
from hpc_fl.compression.reading import Reading
from hpc_fl.errors import CodecError
from hpc_fl.telemetry.ledger import Ledger


class Differences(EncodedGossip):
    """x_i += step * sum_j w_ij (C_j - C_i), where C_i is what the payload of node i decodes to.

    Worked out as sum_j w_ij C_j - (1 - w_ii) C_i, which keeps the total where the columns of the matrix sum
    to one, whether or not its rows do. Of a node that is left out its takers take C_i instead.
    """

    step: float = 1.0

    def _apply(self, rows: Tensor, routes: Routes, own: list[Payload | None], arrivals: Arrivals) -> None:
        arrays = [as_array(row) for row in rows]
        read = [p if p is None else self._codec.read(p, x) for p, x in zip(own, arrays, strict=True)]
        parts = [1.0 - routes.weights[row, row] for row in range(len(rows))]

        def take(reading: Reading | None, takers: Takers) -> None:
            for row, weight in takers:
                if reading is None:
                    parts[row] -= weight
                elif own[row] is not None:
                    reading.add(self.step * weight, arrays[row])

        for reading, takers in zip(read, routes.inside, strict=True):
            take(reading, takers)
        for takers, reading in arrivals.readings():
            take(reading, takers)
        for reading, part, x in zip(read, parts, arrays, strict=True):
            if reading is not None:
                reading.add(-self.step * part, x)


class DirectMixer(Differences):
    """The difference form of what rows encode to now, for codecs that lose little or are right on average.

    Keeps nothing. Raises :class:`CodecError` for a codec that needs error feedback.
    """

    name: ClassVar[str] = "direct"

    def __init__(self, transport: Transport, ledger: Ledger, placement: Placement, codec: Base) -> None:
        if codec.needs_feedback:
            raise CodecError(
                f"direct gossip: {codec.name} loses too much without memory; use CHOCO or DeepSqueeze for it"
            )
        super().__init__(transport, ledger, placement, codec)

    def _encode(self, node: int, x: Tensor, round_: int) -> Payload:
        return detached(self._codec.at(round_, node).encode(x), x)
