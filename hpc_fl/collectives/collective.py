"""What every reduction is: a buffer on each rank -> the sum of all, on every rank."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> None:
        """Returns when it is complete. Raises :class:`TransportError` when a rank was lost."""
        ...


class Collective(Protocol):
    """Sums a float32 buffer over the ranks; all ranks end with identical bits.

    Every rank must make the same calls in the same order.
    """

    @property
    def name(self) -> str: ...

    def allreduce(self, buffer: Tensor) -> None:
        """Sums ``buffer`` (n,) in place over all ranks, and waits."""
        ...

    def start(self, buffer: Tensor) -> Handle:
        """Begins to; ``buffer`` is not to be touched before ``wait()``."""
        ...
