"""Any optimiser of torch on every rank, averaged with one neighbour at a time while it steps.

Lian, Zhang, Zhang, Liu: Asynchronous Decentralized Parallel Stochastic Gradient Descent, ICML 2018, algorithm
1. The gradient is of the model as it was when the step began; the step is added to the model as it is when it
ends, after the averages that came between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hpc_fl.collectives.front_door import transport_of
from hpc_fl.collectives.lane import Running
from hpc_fl.collectives.pairwise import Averaged, PairwiseAverager
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.arrays import all_finite, as_array
from hpc_fl.errors import ConfigError
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers.local import LocalOptimizer
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import Schedule, Topology

if TYPE_CHECKING:
    from mpi4py import MPI


class AsynchronousOptimizer(LocalOptimizer):
    """``optimizer``, over ``model.parameters``, steps along this rank's own gradient; at the same time the
    rank averages with neighbours drawn at random, one after the other, and is averaged with.

    No rank waits for another's steps: fast ones make more of them. ``topology``: undirected and static, over
    the ranks. ``timeout`` in seconds: of one average. Averaged buffers (BatchNorm) are averaged too. Memory:
    20 n bytes. Making one is collective. Raises :class:`ConfigError` for another topology, and where ranks
    begin with different parameters; :class:`TransportError` where MPI was started without
    MPI_THREAD_MULTIPLE.
    """

    def __init__(
        self,
        model: FlatModel,
        optimizer: torch.optim.Optimizer,
        comm: Transport | MPI.Comm,
        topology: Topology,
        *,
        seed: int = 0,
        timeout: float | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(model, optimizer, transport_of(comm))
        self._require_one_start()
        schedule = Schedule(topology)
        if topology.size != self._transport.size or schedule.directed or not schedule.static:
            raise ConfigError(
                f"{type(self).__name__}: {topology.name} of {topology.size} nodes given; an undirected and "
                f"static topology of {self._transport.size} nodes (such as ring) expected"
            )
        neighbours = [node for node, _ in schedule.matrix(0).sources(self._transport.rank)]
        self._averager = PairwiseAverager(
            self._transport,
            ledger or Ledger(),
            model.values.clone(),
            neighbours=neighbours,
            seed=seed,
            timeout=timeout,
        )
        self._begun = model.values.clone()
        self._under_way: Running[Averaged] | None = None
        self.steps = self.averages = 0

    @torch.no_grad()
    def step(self) -> bool:
        """Moves the parameters by the gradients of this rank's last backward pass; begins the next average
        where the last one is complete. Not collective: ranks may make different numbers of steps.

        False: the gradient was not finite, and made no step. Raises :class:`TransportTimeout` naming a
        neighbour that does not answer.
        """
        gradient = self.model.collect_grads()
        sound = all_finite(as_array(gradient))
        if sound:
            self._advance()
            # With what the forward pass has done to averaged buffers.
            self._averager.add(self.model.values - self._begun)
        self.steps += 1
        self._average()
        with self._averager.locked() as buffer:
            self.model.values.copy_(buffer)
        self._begun.copy_(self.model.values)
        return sound

    def _average(self) -> None:
        if self._under_way is not None:
            if not self._under_way.done():
                return
            self.averages += self._under_way.wait().not_finite is None
        self._under_way = self._averager.start()

    def finish(self) -> None:
        """Answers until all ranks have called it; the model is then this rank's last. Every rank must call
        it, after its last step and before :meth:`consensus`.
        """
        if self._under_way is not None:
            self.averages += self._under_way.wait().not_finite is None
            self._under_way = None
        self._averager.close()
        with self._averager.locked() as buffer:
            self.model.values.copy_(buffer)
