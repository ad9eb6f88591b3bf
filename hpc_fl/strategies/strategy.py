"""What an algorithm is: a party half, a server half, named state, and the names of the buffers that travel.

The server half runs on every rank alike, on the identical mean: there is no server process. A new algorithm
is one new file with a class of this shape; to be named in a configuration it needs a section in
:mod:`hpc_fl.config.training` and a line in the table of :mod:`hpc_fl.build`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.training.executor import Correction, Trained

State = dict[str, Tensor]
"""Server state by name: float32 (trainable,) or scalars; the same bits on every rank; saved in checkpoints.
"""

PartyStates = dict[int, dict[str, Tensor]]
"""State of the parties hosted on this rank, by party id; saved in checkpoints with the party."""

Weighting = Literal["samples", "equal"]


class Strategy(Protocol):
    """An algorithm over rounds.

    ``travels`` names the buffers that a party hands to the exchange, each (n,).
    """

    @property
    def travels(self) -> tuple[str, ...]: ...

    @property
    def gradient_only(self) -> bool: ...

    def weights(self, samples: NDArray[np.int64]) -> NDArray[np.float32]:
        """Each party's weight in the mean, given its samples; both (B,)."""
        ...

    def init(self, trainable: int, device: torch.device) -> State:
        """The server state before the first round."""
        ...

    def correction(self, state: State, parties: PartyStates) -> Correction | None:
        """The change to every local gradient of this round, if there is one."""
        ...

    def report(self, trained: Trained, state: State, parties: PartyStates) -> Mapping[str, Tensor]:
        """The buffers that travel, (B, n) each; may overwrite ``trained.update`` and change ``parties``."""
        ...

    def apply(self, params: Tensor, mixed: Mapping[str, Tensor], state: State, trainable: int) -> None:
        """The server half: changes ``params`` (n,) and ``state`` in place by the mean buffers."""
        ...


class Averaging(ABC):
    """The parts that averaging algorithms share: the update travels, nothing is corrected, parties keep
    nothing.
    """

    travels: ClassVar[tuple[str, ...]] = ("update",)
    gradient_only: ClassVar[bool] = False
    weighting: Weighting = "samples"

    def weights(self, samples: NDArray[np.int64]) -> NDArray[np.float32]:
        return samples.astype(np.float32) if self.weighting == "samples" else (samples > 0).astype(np.float32)

    def init(self, trainable: int, device: torch.device) -> State:
        return {}

    def correction(self, state: State, parties: PartyStates) -> Correction | None:
        return None

    def report(self, trained: Trained, state: State, parties: PartyStates) -> Mapping[str, Tensor]:
        return {"update": trained.update}

    def apply(self, params: Tensor, mixed: Mapping[str, Tensor], state: State, trainable: int) -> None:
        update = mixed["update"]
        self.step(params[:trainable], update[:trainable], state)
        # Averaged buffers (BatchNorm statistics) are means, not directions: the server's optimiser is not
        # for them.
        params[trainable:] += update[trainable:]

    @abstractmethod
    def step(self, params: Tensor, update: Tensor, state: State) -> None:
        """Changes ``params`` (trainable,) in place by the mean ``update``, which may be overwritten."""
