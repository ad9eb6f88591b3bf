"""What every transport offers: point-to-point messages and collectives on contiguous buffers.

A buffer is a C-contiguous numpy array or torch tensor; its memory is read and written in place and nothing is
pickled. Ranks are those of the transport at hand; counts are in elements, not bytes. A method whose docstring
says "collective" must be called by every rank of the transport, in the same order on all.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol, TypeAlias, Union

import numpy.typing as npt

from hpc_fl.comm.window import Window

if TYPE_CHECKING:
    import torch

Buffer: TypeAlias = Union[npt.NDArray[Any], "torch.Tensor"]
ReduceOp: TypeAlias = Literal["sum", "min", "max"]


class Request(Protocol):
    """A message or a collective under way; its buffers must be left alone until it is complete."""

    def wait(self, timeout: float | None = None) -> None:
        """Return when complete; calling it again is allowed and returns at once.

        `timeout` is in seconds; None means the transport's own limit. Raises TransportTimeout when it passes
        (the request stays under way and can be waited for again), TransportError when the operation failed.
        """

    def done(self) -> bool:
        """Whether it is complete; drives progress and never blocks. Raises TransportError when it failed."""
        ...


Addressed: TypeAlias = tuple[Buffer, int]
"""A buffer and the rank that it goes to, or comes from."""


class Persistent(NamedTuple):
    """Messages that were prepared once, to be made any number of times."""

    run: Callable[[], None]
    """Sends, receives and waits for all. Raises TransportError."""
    close: Callable[[], None]
    """Frees what was prepared; to be called once, before the transport is closed."""


class Transport(Protocol):
    """A group of ranks that exchange buffers. They raise TransportError, also on unusable buffers."""

    @property
    def rank(self) -> int:
        """This process's number in the group, 0 to size - 1."""
        ...

    @property
    def size(self) -> int:
        """How many ranks the group has."""
        ...

    @property
    def local_rank(self) -> int:
        """This process's number among the group's ranks on the same machine."""
        ...

    @property
    def local_size(self) -> int:
        """How many of the group's ranks are on the same machine."""
        ...

    @property
    def name(self) -> str:
        """What carries the messages, for people: "Open MPI 5.0.11", "in-process"."""
        ...

    @property
    def concurrent(self) -> bool:
        """Whether several threads of this rank may use its transports at the same time."""
        ...

    def send(self, buf: Buffer, dest: int, tag: int = 0) -> None:
        """Send to `dest`; returns when `buf` may be changed, perhaps only after `dest` began to receive."""

    def recv(self, buf: Buffer, source: int, tag: int = 0) -> None:
        """Receive from `source` into the head of `buf`; a message larger than `buf` is a TransportError."""

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        """Start a send; `buf` must stay as it is until the request is complete."""
        ...

    def irecv(self, buf: Buffer, source: int, tag: int = 0) -> Request:
        """Start a receive; those from one source with one tag are filled in the order of posting."""
        ...

    def persistent(
        self, sends: Sequence[Addressed], receives: Sequence[Addressed], tag: int = 0
    ) -> Persistent:
        """Prepare to send each buffer to its rank and receive each from its rank, again and again.

        As `isend` and `irecv` do, in that order; the buffers stay in their place, and what is around a
        message is done once, here.
        """
        ...

    def allreduce(self, buf: Buffer, op: ReduceOp = "sum") -> None:
        """Reduce element by element over all ranks, in place; all ranks end with identical bits (collective).

        Takes 32- and 64-bit floats and integers of 8 to 64 bits; 16-bit floats are refused, as few MPI
        libraries can add them. With "min" and "max" the result for NaN, and the sign of a zero, are not
        defined.
        """

    def iallreduce(self, buf: Buffer, op: ReduceOp = "sum") -> Request:
        """Start an allreduce (collective)."""
        ...

    def allgather(self, send: Buffer, recv: Buffer) -> None:
        """Concatenate `send` (n elements on every rank) of all ranks into `recv` (size * n) (collective)."""

    def allgatherv(self, send: Buffer, recv: Buffer, counts: Sequence[int]) -> None:
        """Like allgather with `counts[r]` elements from rank r, the same on all ranks (collective)."""

    def gather(self, send: Buffer, recv: Buffer | None, root: int = 0) -> None:
        """Concatenate `send` of all ranks into `recv` on `root`; others may pass None (collective)."""

    def alltoall(self, send: Buffer, recv: Buffer) -> None:
        """Send the r-th of `size` equal parts of `send` to rank r; parts arrive by rank (collective)."""

    def alltoallv(
        self, send: Buffer, send_counts: Sequence[int], recv: Buffer, recv_counts: Sequence[int]
    ) -> None:
        """Like alltoall with `send_counts[r]` elements to, `recv_counts[r]` from rank r (collective)."""

    def broadcast(self, buf: Buffer, root: int = 0) -> None:
        """Copy `buf` of `root` into `buf` of all others, of the same dtype and size (collective)."""

    def barrier(self) -> None:
        """Return when every rank has called it (collective)."""

    def split(self, color: int, key: int = 0) -> "Transport":
        """A new group of the ranks that gave the same `color` (>= 0), ordered by (key, rank) (collective)."""
        ...

    def dup(self) -> "Transport":
        """A new group of the same ranks whose messages never meet this one's (collective)."""
        ...

    def window(self, elements: int) -> Window:
        """Memory of `elements` float32 zeros on this rank, for all ranks to write into (collective).

        Ranks may ask for different numbers. Raises TransportError where `concurrent` is False.
        """
        ...

    def abort(self, code: int) -> NoReturn:
        """End the whole job with exit code `code`, from any one rank, without waiting for the others."""
        ...

    def close(self) -> None:
        """Release what the transport holds; calling it again does nothing (collective)."""
