"""Any optimiser of torch on every rank, whose parameters are mixed with those of its neighbours.

The algorithms are those of :mod:`hpc_fl.strategies`, with a rank in place of a party and ``every`` steps in
place of a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from hpc_fl.collectives.front_door import transport_of
from hpc_fl.collectives.mixer import MixingHandle
from hpc_fl.collectives.mixing import mixing
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.arrays import all_finite, as_array
from hpc_fl.compression.base import Base
from hpc_fl.errors import CheckpointError, ConfigError
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers.local import LocalOptimizer
from hpc_fl.strategies import DPSGD, MODEL, Decentralised, Local, Own, buffers_of, schedule_of
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import Topology

if TYPE_CHECKING:
    from mpi4py import MPI

_ROW: Final = "row."
_KEPT: Final = "kept."
_MIXED: Final = "mixed."
_MIXER: Final = "mixer."
_COUNTS: Final = "counts"


class DecentralisedOptimizer(LocalOptimizer):
    """``optimizer``, over ``model.parameters``, steps along this rank's own gradient; after every ``every``
    steps the models of neighbours are mixed.

    Ranks begin with the same parameters and go on with their own: :meth:`consensus` makes them one.
    ``topology``: over the ranks, the same on all. ``strategy``: the algorithm (D-PSGD). ``codec``: how models
    travel; None: float32. One that loses much travels as CHOCO's differences, over a changing topology as
    DeepSqueeze's; ``consensus_step``: how far either goes to the neighbours, None: by the codec. Averaged
    buffers (BatchNorm) are mixed too.

    Memory: n float32 besides the model, and what the strategy and the codec keep. Making one is collective.
    Raises :class:`ConfigError` for a topology of another size, and where ranks begin with different
    parameters; :class:`TopologyError` for one that cannot serve, :class:`CodecError` for a codec that cannot.
    """

    def __init__(
        self,
        model: FlatModel,
        optimizer: torch.optim.Optimizer,
        comm: Transport | MPI.Comm,
        topology: Topology,
        *,
        strategy: Decentralised | None = None,
        codec: Base | None = None,
        consensus_step: float | None = None,
        every: int = 1,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(model, optimizer, transport_of(comm))
        self._require_one_start()
        self._strategy = strategy or DPSGD()
        if topology.size != self._transport.size or every < 1:
            raise ConfigError(
                f"{type(self).__name__}: a topology of {topology.size} nodes and every = {every} given; "
                f"{self._transport.size}, the number of ranks, and 1 or more expected"
            )
        if self._strategy.pairwise:
            raise ConfigError(
                f"{type(self).__name__}: {type(self._strategy).__name__} averages in no order; use "
                "AsynchronousOptimizer for it"
            )
        self.schedule = schedule_of(self._strategy, topology)
        self._every = every
        self._rows = buffers_of(self._strategy, model, 1)
        self._mixers = {
            name: mixing(
                self._transport,
                codec if rows.shape[1] > 1 else None,
                changing=not self.schedule.static,
                step=consensus_step,
                ledger=ledger,
            )
            for name, rows in self._rows.items()
        }
        self._own = Own({name: row[0] for name, row in self._rows.items()}, {})
        self._strategy.begin(self._own, model.trainable)
        self._mixers[MODEL].agree(model.values)
        self._correction = self._strategy.correction({self._transport.rank: self._own.kept})
        self._rate, self._sound = 0.0, False
        self.steps = 0
        self._under_way: list[MixingHandle] = []
        self._copies = self._rows
        self._set_out()

    @torch.no_grad()
    def step(self) -> bool:
        """Moves the parameters by the gradients of this rank's last backward pass, and mixes after every
        ``every`` steps. Every rank must call it. False: the gradient was not finite, and made no step. A
        model that is not finite when it is to be mixed goes back to what it was after the last mixing.

        Raises :class:`TransportError` when a neighbour is lost, :class:`WireError` naming the sender of a
        message that cannot be read.
        """
        model, gradient = self.model, self.model.collect_grads()
        sound = all_finite(as_array(gradient))
        if sound:
            if self._correction is not None:
                begun = self._own.model[: model.trainable]
                self._correction((self._transport.rank,), model.params, gradient, begun)
            self._advance()
            self._rate += float(self.optimizer.param_groups[0]["lr"])
            self._sound = True
        self.steps += 1
        if self.steps % self._every == 0:
            self._mix()
        return sound

    def _mix(self) -> None:
        model, own = self.model, self._own
        update = torch.sub(model.values, own.model)
        sound = self._sound
        if not all_finite(as_array(update)):  # averaged buffers may be spoilt where the gradient is not
            update, sound = update.zero_(), False
        self._strategy.offer(own, Local(update, self._rate, sound), model.trainable)
        if self._strategy.overlaps:
            self._arrive()
        else:
            matrix = self.schedule.matrix(self._round)
            for name, rows in self._rows.items():
                self._mixers[name].mix(rows, matrix, self._round)
        self._strategy.settle(own, self._copies[MODEL][0], self._rate, model.trainable)
        model.values.copy_(own.model)
        self._rate, self._sound = 0.0, False
        self._set_out()

    @property
    def _round(self) -> int:
        """The number of the mixing that the steps under way end with."""
        return max(0, self.steps - 1) // self._every

    def _set_out(self) -> None:
        """Begins to mix what the next steps begin with, where the algorithm overlaps."""
        if not self._strategy.overlaps:
            return
        self._copies = {name: rows.clone() for name, rows in self._rows.items()}
        number = self.steps // self._every
        matrix = self.schedule.matrix(number)
        self._under_way = [
            self._mixers[name].start(rows, matrix, number) for name, rows in self._copies.items()
        ]

    def _arrive(self) -> None:
        for handle in self._under_way:
            handle.wait()
        self._under_way = []

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of all that is kept between steps; not the parameters, nor what the optimiser keeps.
        Waits for the mixing under way.
        """
        kept = {_COUNTS: torch.tensor([self.steps, self._rate, self._sound], dtype=torch.float64)}
        self._arrive()
        kept |= {_ROW + name: row[0] for name, row in self._rows.items()}
        if self._strategy.overlaps:
            kept |= {_MIXED + name: row[0] for name, row in self._copies.items()}
        kept |= {_KEPT + name: tensor for name, tensor in self._own.kept.items()}
        for name, mixer in self._mixers.items():
            for tensors in mixer.state().values():
                kept |= {f"{_MIXER}{name}.{key}": tensor for key, tensor in tensors.items()}
        return {name: tensor.detach().clone() for name, tensor in kept.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over :meth:`state_dict` of this rank. Every rank must call it, with states of the same step.

        Raises :class:`CheckpointError` for entries that are missing or of another shape; nothing is changed
        then.
        """
        own = {_ROW + name: row[0] for name, row in self._rows.items()}
        own |= {_KEPT + name: tensor for name, tensor in self._own.kept.items()}
        if self._strategy.overlaps:
            own |= {_MIXED + name: row[0] for name, row in self._copies.items()}
        for name, tensor in {_COUNTS: torch.empty(3), **own}.items():
            if name not in state or state[name].shape != tensor.shape:
                found = f"shape {tuple(state[name].shape)}" if name in state else "nothing"
                raise CheckpointError(
                    f"{type(self).__name__}: {name}: {found} found, shape {tuple(tensor.shape)} expected: "
                    "load the state of the same strategy and model"
                )
        self._arrive()
        steps, self._rate, sound = state[_COUNTS].tolist()
        self.steps, self._sound = int(steps), bool(sound)
        for name, tensor in own.items():
            tensor.copy_(state[name])
        for name, mixer in self._mixers.items():
            prefix = f"{_MIXER}{name}."
            kept = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
            mixer.restore({self._transport.rank: kept} if kept else {})

    def close(self) -> None:
        """Waits for what is under way, and frees what it holds (collective)."""
        self._arrive()
        for mixer in self._mixers.values():
            mixer.close()
