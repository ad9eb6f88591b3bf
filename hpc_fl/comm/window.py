"""Memory that other ranks write into without the help of its owner: one-sided communication.

The meaning is that of MPI's passive target (MPI 4.1, chapter 12) with exclusive locks: a write is one whole,
and a reader who holds the lock sees all of it or nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hpc_fl.comm.exclusive import Exclusive
from hpc_fl.errors import TransportError

Floats: TypeAlias = npt.NDArray[np.float32]


class Window(ABC):
    """float32 memory of every rank, zeros at first, that all ranks can write; made by `Transport.window`.

    A write is complete at its target when the method returns, and happens as one whole: writes to one rank,
    and what it does itself under `locked`, follow one another. The target need not call anything. One call of
    a rank is under way at a time; others of its threads wait. Raises TransportError when a rank was lost,
    TransportTimeout past the transport's limit. `sizes`: the elements of every rank's memory, by rank.
    """

    def __init__(self, rank: int, sizes: Sequence[int]) -> None:
        self.rank, self.sizes = rank, tuple(sizes)
        self._turn = Exclusive(f"rank {rank}: window")
        self._open = True

    def put(self, values: Floats, target: int, offset: int = 0) -> None:
        """Copy `values` (k,) to elements `offset` to `offset + k` of the memory of `target`."""
        self._check(values, target, offset)
        with self._turn.held():
            self._write(values, target, offset, add=False)

    def accumulate(self, values: Floats, target: int, offset: int = 0) -> None:
        """Add `values` (k,) to elements `offset` to `offset + k` of the memory of `target`."""
        self._check(values, target, offset)
        with self._turn.held():
            self._write(values, target, offset, add=True)

    @contextmanager
    def locked(self) -> Iterator[Floats]:
        """This rank's memory, for reading and writing; nobody writes into it meanwhile.

        Be quick: others wait. Raises TransportError for another call of the window inside.
        """
        self._check_open()
        with self._turn.held():
            self._lock()
            try:
                yield self._memory()
            finally:
                self._unlock()

    def close(self) -> None:
        """Give the memory back when every rank is done with it; again does nothing (collective)."""
        if self._open:
            self._open = False
            self._close()

    def _check_open(self) -> None:
        if not self._open:
            raise TransportError(f"rank {self.rank}: the window is closed; make a new one")

    def _check(self, values: Any, target: int, offset: int) -> None:
        self._check_open()
        if not 0 <= target < len(self.sizes):
            raise TransportError(f"window: rank {target} given, 0 to {len(self.sizes) - 1} expected")
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or not values.flags.c_contiguous:
            raise TransportError("window: a C-contiguous numpy array of float32 expected; convert the values")
        if not 0 <= offset <= self.sizes[target] - values.size:
            raise TransportError(
                f"window: elements {offset} to {offset + values.size} of rank {target}, "
                f"which has {self.sizes[target]}"
            )

    @abstractmethod
    def _write(self, values: Floats, target: int, offset: int, *, add: bool) -> None:
        """One whole write; returns when it is complete at its target."""

    @abstractmethod
    def _memory(self) -> Floats:
        """This rank's own."""

    @abstractmethod
    def _lock(self) -> None:
        """Keeps the others out of this rank's memory."""

    @abstractmethod
    def _unlock(self) -> None:
        """Lets them in again."""

    @abstractmethod
    def _close(self) -> None:
        """Collective; called once."""
