"""What a decentralised algorithm is: what a party does to its own buffers before and after they are mixed.

There is no server and no agreed model. Every party has buffers of its own, which the exchange mixes with
those of its neighbours: ``model``, and what else the algorithm needs. A new algorithm is one new file with a
class of this shape; to be named in a configuration it needs a section in :mod:`hpc_fl.config.gossip` and a
line in the table of :mod:`hpc_fl.build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import torch
from torch import Tensor

from hpc_fl.errors import TopologyError
from hpc_fl.flat import FlatModel
from hpc_fl.strategies.strategy import PartyStates
from hpc_fl.topology import Rule, Schedule, Topology, push_sum
from hpc_fl.training.executor import Correction

MODEL: Final = "model"
"""The buffer that every algorithm mixes: a party's model (n,)."""

MASS: Final = "mass"
"""The push-sum weight of a party (1,), float64: a buffer of one element travels as it is."""


@dataclass(frozen=True)
class Local:
    """One party's finished local work: ``update`` (n,), local values minus those that it started from, which
    may be overwritten; ``rate``: learning rate times local steps. ``sound``: whether all of it was finite;
    where it was not, ``update`` is zeros: the party keeps its model and takes part in the mixing.
    """

    update: Tensor
    rate: float
    sound: bool = True


@dataclass(frozen=True)
class Own:
    """One party's buffers: ``mixed`` by name, views whose values the exchange mixes in place; ``kept`` by
    name, what else it remembers between rounds. Both are saved in checkpoints.
    """

    mixed: Mapping[str, Tensor]
    kept: dict[str, Tensor]

    @property
    def model(self) -> Tensor:
        """The party's model (n,)."""
        return self.mixed[MODEL]


class Decentralised(Protocol):
    """An algorithm over rounds.

    ``overlaps``: models are mixed while the parties train, from copies that :meth:`settle` adds up with what
    :meth:`offer` left. ``directed``: made for column-stochastic mixing (push-sum); others need matrices whose
    rows and columns sum to one. ``lazy``: needs (I + W) / 2, whose eigenvalues are not negative, in place of
    W. ``pairwise``: averages with one neighbour at a time, in no order, in place of mixing by the matrix.
    """

    @property
    def overlaps(self) -> bool: ...

    @property
    def directed(self) -> bool: ...

    @property
    def lazy(self) -> bool: ...

    @property
    def pairwise(self) -> bool: ...

    def travels(self, n: int) -> Mapping[str, int]:
        """The names of the mixed buffers besides the model, and their lengths; they begin as zeros."""
        ...

    def begin(self, own: Own, trainable: int) -> None:
        """Before a party's first round; its model is the common initial one."""
        ...

    def bereave(self, own: Own, trainable: int) -> None:
        """When other parties are gone for good: what holds for all parties together no longer does."""
        ...

    def correction(self, kept: PartyStates) -> Correction | None:
        """The change to every local gradient of the parties hosted here, if there is one."""
        ...

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        """Takes the local work into the buffers that are mixed next."""
        ...

    def settle(self, own: Own, mixed: Tensor, rate: float, trainable: int) -> None:
        """After mixing; ``mixed`` (n,) is the mixed model: ``own.model`` itself, unless the algorithm
        overlaps. ``rate`` as in :class:`Local`.
        """
        ...


class Gossip:
    """The parts that algorithms share: only the model travels, nothing is corrected, nothing kept."""

    overlaps: bool = False
    directed: ClassVar[bool] = False
    lazy: ClassVar[bool] = False
    pairwise: ClassVar[bool] = False

    def travels(self, n: int) -> Mapping[str, int]:
        return {}

    def begin(self, own: Own, trainable: int) -> None:
        """Nothing to prepare."""

    def bereave(self, own: Own, trainable: int) -> None:
        """What holds of each two parties still does: push-sum stays unbiased over those that remain."""

    def correction(self, kept: PartyStates) -> Correction | None:
        return None

    def offer(self, own: Own, local: Local, trainable: int) -> None:
        own.model.add_(local.update)

    def settle(self, own: Own, mixed: Tensor, rate: float, trainable: int) -> None:
        """The mixed model is the new one."""


def buffers_of(strategy: Decentralised, model: FlatModel, count: int) -> dict[str, Tensor]:
    """What ``strategy`` mixes of ``count`` parties that begin with ``model``: by name, (count, length) on the
    model's device. ``model`` holds its values; others are zeros. float32, but for one element beside a longer
    model: a weight, of which every bit counts, float64.
    """
    rows = {MODEL: model.values.expand(count, -1).clone()}
    for name, length in strategy.travels(model.n).items():
        dtype = torch.float64 if length == 1 < model.n else torch.float32
        rows[name] = torch.zeros(count, length, dtype=dtype, device=model.device)
    return rows


def schedule_of(strategy: Decentralised, topology: Topology, weights: Rule | None = None) -> Schedule:
    """The mixing matrices that ``strategy`` takes over ``topology``. ``weights``: a rule; None: those that
    came with the topology, else push-sum where the strategy is made for it, else doubly stochastic ones.

    Raises :class:`TopologyError` for weights with which the strategy goes wrong: rows that do not sum to one,
    where there is no push-sum; not symmetric, for exact diffusion.
    """
    pushes = strategy.directed and topology.given is None
    schedule = Schedule(topology, push_sum if pushes else weights, lazy=strategy.lazy)
    name = type(strategy).__name__
    if not (strategy.directed or schedule.doubly_stochastic):
        raise TopologyError(
            f"{schedule.name}: columns of the weights sum to one but rows do not, which {name} cannot mix; "
            "take push-sum (strategy sgp), or doubly stochastic weights"
        )
    if strategy.lazy and not schedule.symmetric:
        raise TopologyError(
            f"{schedule.name}: weights are not symmetric, which {name} needs; take an undirected topology, "
            "or gradient_tracking"
        )
    return schedule
