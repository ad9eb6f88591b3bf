"""What every mixing with neighbours is: rows of nodes -> the same rows, mixed by one step of a topology."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from hpc_fl.topology import MixingMatrix

Placement = tuple[tuple[int, ...], ...]
"""By rank, the nodes that it hosts, ascending; together every node once. A rank may host none."""

NodeStates = dict[int, dict[str, Tensor]]
"""What is kept for the nodes hosted here between calls, by node and name; goes into checkpoints."""


class Mixer(Protocol):
    """Mixes one named buffer of every node with those of its neighbours, encoded on the way or not.

    Every rank must make the same calls, in the same order, with the same matrices. Nothing but messages
    between the ranks of neighbours travels: there is no collective inside a call, but for the first one of
    encoded rows. A row that is not finite reaches nobody: its neighbours keep its weight themselves, and it
    stays as it was.
    """

    @property
    def name(self) -> str: ...

    def mix(self, rows: Tensor, matrix: MixingMatrix, round_: int) -> tuple[int, ...]:
        """Overwrites ``rows`` (B, n) float32, one for each node hosted here in their order, by the mixed
        ones, and waits. The nodes hosted here that were left out as not finite.
        """
        ...

    def start(self, rows: Tensor, matrix: MixingMatrix, round_: int) -> MixingHandle:
        """Begins to; ``rows`` are not to be touched before ``wait()``."""
        ...

    def agree(self, values: Tensor) -> None:
        """All nodes hold ``values`` (n,) now, the same bits on every rank, and know it of each other. Every
        rank must call it.
        """
        ...

    def state(self) -> NodeStates:
        """What is kept between calls, keyed by node: the tensors themselves, good until the next call."""
        ...

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`, for the nodes hosted here now."""
        ...

    def reset(self) -> None:
        """Forgets what was kept of neighbours, which every rank must do when nodes come or go."""
        ...

    def close(self) -> None:
        """Waits for what is under way, and frees what it holds (collective)."""
        ...


class MixingHandle(Protocol):
    """A mixing under way."""

    def wait(self, timeout: float | None = None) -> tuple[int, ...]:
        """Returns when the rows are mixed: the nodes hosted here that were left out. ``timeout`` in
        seconds.
        """
        ...

    def done(self) -> bool:
        """Whether they are."""
        ...
