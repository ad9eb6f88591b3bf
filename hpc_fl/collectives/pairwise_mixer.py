"""Rounds of pairwise averaging: every rank asks one neighbour, drawn at random; nobody keeps to an order.

Lian, Zhang, Zhang, Liu: Asynchronous Decentralized Parallel Stochastic Gradient Descent, ICML 2018. See
:mod:`hpc_fl.collectives.pairwise`.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hpc_fl.collectives.gossip import Gossip
from hpc_fl.collectives.mixer import Placement
from hpc_fl.collectives.pairwise import PairwiseAverager
from hpc_fl.collectives.routes import Routes
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger


class PairwiseMixer(Gossip):
    """A call averages with one neighbour of the matrix, whatever its weights, and answers those who ask; it
    ends when all ranks have been answered. The sum of all rows is preserved to rounding.

    For one node a rank, and matrices whose nodes take of those that take of them; the neighbours are those of
    the first call. ``timeout`` in seconds: of one average. Memory: 16 n bytes. Sends 4n bytes for the
    request, and as many for each answer. Raises :class:`TransportError` for another placement, and where MPI
    was started without MPI_THREAD_MULTIPLE.
    """

    name: ClassVar[str] = "pairwise"

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        placement: Placement,
        *,
        seed: int = 0,
        timeout: float | None = None,
    ) -> None:
        if any(len(nodes) != 1 for nodes in placement):
            crowd = next(rank for rank, nodes in enumerate(placement) if len(nodes) != 1)
            raise TransportError(
                f"pairwise averaging is between ranks: rank {crowd} hosts {len(placement[crowd])} parties; "
                "run with as many ranks as parties"
            )
        super().__init__(transport, ledger, placement)
        self._host = {nodes[0]: rank for rank, nodes in enumerate(placement)}
        self._seed, self._timeout = seed, timeout
        self._averager: PairwiseAverager | None = None

    def _mix(self, rows: Tensor, routes: Routes, round_: int) -> tuple[int, ...]:
        averager = self._averager or self._opened(rows[0], routes)
        with averager.locked() as buffer:
            buffer.copy_(rows[0])
        self._transport.barrier()  # nobody is asked for a model of the round before
        averaged = averager.average_with()
        self._transport.barrier()  # all who ask have been answered
        own = averaged.not_finite == self._transport.rank
        with averager.locked() as buffer:
            rows[0].copy_(buffer)
        return self._nodes if own else ()

    def _opened(self, row: Tensor, routes: Routes) -> PairwiseAverager:
        """Made by the first call on all ranks, which are the first to know n and who is whose neighbour."""
        sources = [self._host[node] for node, _ in routes.matrix.sources(self._nodes[0])]
        self._averager = PairwiseAverager(
            self._transport,
            self._ledger,
            row.clone(),
            neighbours=sources,
            seed=self._seed,
            timeout=self._timeout,
        )
        return self._averager

    def close(self) -> None:
        if self._averager is not None:
            self._averager.close()
        super().close()
