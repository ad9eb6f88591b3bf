"""One queue, one order: collectives that run beside the training, each after the one before it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Generic, TypeVar

import torch

from hpc_fl.errors import TransportTimeout

T = TypeVar("T")


class Running(Generic[T]):
    """A collective under way; see :class:`hpc_fl.collectives.collective.Handle`."""

    def __init__(self, future: Future[T], what: str) -> None:
        self._future, self._what = future, what

    def wait(self, timeout: float | None = None) -> T:
        """The result, when it is complete; raises what the collective raised.

        ``timeout`` in seconds: raises :class:`TransportTimeout` when it passes, the collective going on.
        """
        try:
            return self._future.result(timeout)
        except Late:
            raise TransportTimeout(f"{self._what}: not complete within {timeout} s") from None

    def done(self) -> bool:
        """Whether it is complete."""
        return self._future.done()


class Lane:
    """A thread of its own for the collectives of one transport, made when it is first used.

    Collectives run in the order in which they were submitted, which must be the same on every rank: nothing
    that finishes early or late on one rank can change it. They overlap with what the training thread
    computes, as kernels, torch and MPI release the GIL.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._last: Future[object] | None = None

    def submit(self, job: Callable[[], T]) -> Running[T]:
        """Queues ``job``."""
        if self._pool is None:
            # A new thread would take the machine's number of cores, not this rank's share.
            self._pool = ThreadPoolExecutor(
                1, self._name, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
            )
        future = self._pool.submit(job)
        self._last = future  # type: ignore[assignment]
        return Running(future, self._name)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued."""
        return self._last is None or self._last.done()

    def run(self, job: Callable[[], T]) -> T:
        """``job``'s result: here and now where nothing is queued, else in its turn."""
        if self.idle:
            return job()
        return self.submit(job).wait()

    def close(self) -> None:
        """Waits for what is queued, and ends the thread."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
