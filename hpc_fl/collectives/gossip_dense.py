"""Gossip of rows as they are: x_i <- sum_j w_ij x_j.

Nedic, Ozdaglar: Distributed Subgradient Methods for Multi-Agent Optimization, IEEE TAC 2009; Lian et al.: Can
Decentralized Algorithms Outperform Centralized Algorithms?, NeurIPS 2017.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hpc_fl.collectives.columns import Columns
from hpc_fl.collectives.gossip import Gossip
from hpc_fl.collectives.mixer import Placement
from hpc_fl.collectives.prepared import PreparedMixes
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.arrays import all_finite
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import MixingMatrix


class DenseMixer(Gossip):
    """4n bytes for each row and each other rank that hosts a taker of it; see :class:`Gossip`.

    Rows of float32 or float64. ``segment``, and the memory held: see :class:`Columns`. Rows on a GPU travel
    by way of the host. Raises :class:`TransportError` on every rank where the lengths or the dtypes of rows
    differ in the first call, naming them and the ranks.
    """

    name: ClassVar[str] = "dense"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)

    def __init__(
        self, transport: Transport, ledger: Ledger, placement: Placement, *, segment: int | None = None
    ) -> None:
        super().__init__(transport, ledger, placement)
        self._columns = Columns(self._transport, max(map(len, placement)), segment)
        self._prepared = PreparedMixes(self._transport, self._columns.short)

    def mix(self, rows: Tensor, matrix: MixingMatrix, round_: int) -> tuple[int, ...]:
        prepared = self._prepared.find(rows, matrix)
        if prepared is not None and self._lane.idle and prepared.run():
            self._ledger.add("gossip", prepared.nbytes)
            return ()
        return super().mix(rows, matrix, round_)

    def close(self) -> None:
        self._prepared.close()
        super().close()

    def _mix(self, rows: Tensor, routes: Routes, round_: int) -> tuple[int, ...]:
        if not rows.is_cpu:
            host = rows.cpu()
            left_out = self._mix(host, routes, round_)
            rows.copy_(host)
            return left_out
        self._agree_once({"dtype": rows.dtype, "elements of a row": rows.shape[1]})
        array = rows.detach().numpy()
        sound = [all_finite(row) for row in array]
        outgoing = [row if good else None for row, good in zip(array, sound, strict=True)]
        self._columns.mix(routes, array, outgoing, sound)
        nbytes = array.itemsize * array.shape[1]
        self._prepared.make(rows, routes)
        self._ledger.add("gossip", sum(nbytes * len(sent.ranks) for sent in routes.sent if sound[sent.row]))
        return self._unsound(sound)
