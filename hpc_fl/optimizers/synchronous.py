"""Any optimiser of torch over the ranks' mean gradient: synchronous data-parallel training.

Chen, Pan, Monga, Bengio, Jozefowicz: Revisiting Distributed Synchronous SGD, 2016.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpc_fl.collectives import reduction
from hpc_fl.collectives.collective import Reduced
from hpc_fl.collectives.front_door import transport_of
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.base import Base
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers.local import LocalOptimizer
from hpc_fl.telemetry.ledger import Ledger

if TYPE_CHECKING:
    from mpi4py import MPI


class SynchronousOptimizer(LocalOptimizer):
    """``optimizer``, over ``model.parameters``, steps along the mean of all ranks' gradients.

    The parameters begin with the same bits on every rank, and keep them where the optimiser is a function of
    the gradients. ``codec``: how gradients travel, with the error feedback that it needs; None: float32.
    Averaged buffers (BatchNorm) stay each rank's own. Making one is collective. Raises :class:`ConfigError`
    where ranks begin with different parameters.
    """

    def __init__(
        self,
        model: FlatModel,
        optimizer: torch.optim.Optimizer,
        comm: Transport | MPI.Comm,
        *,
        codec: Base | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(model, optimizer, transport_of(comm))
        self._require_one_start()
        self._reduction = reduction(self._transport, codec, ledger=ledger)

    @torch.no_grad()
    def step(self, weight: float = 1.0) -> Reduced:
        """Moves the parameters by the gradients of the last backward passes of all ranks.

        Every rank must call it. ``weight``: of this rank in the mean. A rank whose gradient is not finite is
        left out, and named in the result; where nobody's is, nothing moves. Raises what :class:`Compressed`
        raises.
        """
        reduced = self._reduction.allreduce(self.model.collect_grads(), weight)
        if reduced.weight > 0:
            self._advance()
        return reduced

    def close(self) -> None:
        """Frees what it holds (collective)."""
        self._reduction.close()
