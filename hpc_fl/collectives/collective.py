"""What every reduction is: a buffer on each rank -> one mixed buffer, the same on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> object:
        """Returns when it is complete. Raises :class:`TransportError` when a rank was lost."""
        ...


class Collective(Protocol):
    """Sums a float32 buffer over the ranks; all ranks end with identical bits.

    Every rank must make the same calls in the same order.
    """

    @property
    def name(self) -> str: ...

    def allreduce(self, buffer: Tensor) -> object:
        """Sums ``buffer`` (n,) in place over all ranks, and waits."""
        ...

    def start(self, buffer: Tensor) -> Handle:
        """Begins to; ``buffer`` is not to be touched before ``wait()``."""
        ...


@dataclass(frozen=True)
class Reduced:
    """How a reduction went, the same on every rank.

    ``weight``: the sum of the weights that entered; ``left_out``: the ranks whose buffer did not, as it held
    a NaN or an infinity, or came to one with what was kept back.
    """

    weight: float
    left_out: tuple[int, ...]


class Reduction(Protocol):
    """The weighted sum or mean of the ranks' buffers, encoded on the way; all ranks end with identical bits.

    Remembers what the encoding left out, where there is error feedback. Every rank must make the same calls
    in the same order.
    """

    @property
    def name(self) -> str: ...

    def allreduce(self, buffer: Tensor, weight: float = 1.0, round_: int | None = None) -> Reduced:
        """Overwrites ``buffer`` (n,) float32 with the result, and waits.

        ``round_``: the number of the call, which schedules and random streams depend on; None: the next one.
        """
        ...

    def start(self, buffer: Tensor, weight: float = 1.0, round_: int | None = None) -> ReducedHandle:
        """Begins to; ``buffer`` is not to be touched before ``wait()``. Several may be under way."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What is kept between calls, for a checkpoint."""
        ...

    def restore(self, *states: Mapping[str, Tensor]) -> None:
        """Takes over what one or several ranks kept, of a world of any size."""
        ...

    def close(self) -> None:
        """Waits for what is under way, and frees what it holds (collective)."""
        ...


class ReducedHandle(Protocol):
    """A reduction under way."""

    def wait(self, timeout: float | None = None) -> Reduced:
        """Returns when the result is in the buffer; ``timeout`` in seconds."""
        ...

    def done(self) -> bool:
        """Whether it is."""
        ...
