"""What every collective is: a buffer on each rank -> the sum of all, on every rank."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from hpc_fl.compression.codec import Codec


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> None:
        """Returns when the buffer holds the sum. Raises :class:`TransportError` when a rank was lost."""
        ...


class Collective(Protocol):
    """Sums a float32 buffer over the ranks; all ranks end with identical bits.

    Every rank must make the same calls in the same order.
    """

    @property
    def name(self) -> str: ...

    def accepts(self, codec: Codec) -> bool:
        """Whether what this codec encodes can travel this way; asked when a run is built."""
        ...

    def allreduce(self, buffer: Tensor) -> None:
        """Sums ``buffer`` (n,) in place over all ranks, and waits."""
        ...

    def start(self, buffer: Tensor) -> Handle:
        """Begins to; ``buffer`` is not to be touched before ``wait()``."""
        ...
