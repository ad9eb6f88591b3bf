"""Windows of ranks that are threads: every rank's memory is everybody's, under a lock for each."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpc_fl.comm.window import Floats, Window
from hpc_fl.errors import TransportTimeout


@dataclass
class Shelf:
    """One rank's memory and its lock."""

    memory: Floats
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, elements: int) -> "Shelf":
        """Zeros."""
        return cls(np.zeros(elements, np.float32))


class InProcessWindow(Window):
    """See Window. `shelves`: every rank's, by rank; `leave` is called by `close` (collective)."""

    def __init__(
        self, rank: int, shelves: Sequence[Shelf], limit: float | None, leave: Callable[[], None]
    ) -> None:
        super().__init__(rank, [shelf.memory.size for shelf in shelves])
        self._shelves, self._limit, self._leave = shelves, limit, leave

    def _acquire(self, owner: int) -> None:
        if not self._shelves[owner].lock.acquire(timeout=-1 if self._limit is None else self._limit):
            raise TransportTimeout(
                f"rank {self.rank}: window of rank {owner}: no lock within {self._limit} s"
            )

    def _write(self, values: Floats, target: int, offset: int, *, add: bool) -> None:
        self._acquire(target)
        part = self._shelves[target].memory[offset : offset + values.size]
        flat = values.reshape(-1)
        np.add(part, flat, out=part) if add else np.copyto(part, flat)
        self._shelves[target].lock.release()

    def _memory(self) -> Floats:
        return self._shelves[self.rank].memory

    def _lock(self) -> None:
        self._acquire(self.rank)

    def _unlock(self) -> None:
        self._shelves[self.rank].lock.release()

    def _close(self) -> None:
        self._leave()
