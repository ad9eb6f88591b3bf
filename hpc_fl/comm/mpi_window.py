"""Windows over MPI's one-sided communication.

Seen with Open MPI 5.0.11: on one machine a write needs nobody at the target. Over TCP it is carried out when
the target is inside some MPI call: at a rank that sleeps 2 s it took 2 s. So every rank has a thread that
looks in every 0.5 ms, and all the time while another host writes, which sends a word before and after. The
thread also makes the rank's own calls, which so get a time limit that MPI does not have. `put` moves its
bytes once; `accumulate` over TCP fetches, adds and puts: twice.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Final, cast

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from hpc_fl.comm.mpi_requests import failure
from hpc_fl.comm.window import Floats, Window
from hpc_fl.errors import TransportError, TransportTimeout

_NAP: Final = 500e-6
_ITEM: Final = 4
_BEGIN: Final = np.array([1], np.int8)
_END: Final = np.array([-1], np.int8)

Job = tuple[Callable[[], None], "Future[None]"]


class _Engine:
    """A thread that makes the window's MPI calls one after the other, and lets MPI move between them."""

    def __init__(self, comm: MPI.Comm, name: str) -> None:
        self._comm = comm
        self._word = np.zeros(1, np.int8)
        self._writers = self._words = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], None], limit: float | None) -> None:
        """Returns when it is done, raises what it raised, or concurrent.futures.TimeoutError."""
        future: Future[None] = Future()
        self._jobs.put((job, future))
        future.result(limit)

    def stop(self) -> None:
        """Ends the thread."""
        self._jobs.put(None)
        self._thread.join()

    def look(self) -> int:
        """Lets MPI move, and takes in the words of writers; how many of them so far."""
        while self._comm.Iprobe():
            self._comm.Recv(self._word)
            self._writers += int(self._word[0])
            self._words += 1
        time.sleep(0)  # lets the other threads have the GIL
        return self._words

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=0 if self._writers else _NAP)
            except queue.Empty:
                self.look()
                continue
            if job is None:
                return
            call, future = job
            try:
                call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)


class MpiWindow(Window):
    """See Window. Making one is collective; `elements` may differ between the ranks.

    Works on a duplicate of `comm`. `timeout` (seconds) bounds every call; None waits for ever. After a
    timeout the call is still under way in MPI, and the job fit only for `abort`. Raises TransportError where
    MPI cannot make windows, and without MPI_THREAD_MULTIPLE.
    """

    def __init__(self, comm: MPI.Comm, elements: int, timeout: float | None) -> None:
        if comm.Get_size() > 1 and MPI.Query_thread() != MPI.THREAD_MULTIPLE:
            raise TransportError(
                "window: MPI was not started for several threads; start it with MPI_THREAD_MULTIPLE"
            )
        self._comm, self._limit = cast("MPI.Intracomm", comm.Dup()), timeout
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        sizes = np.empty(comm.Get_size(), np.int64)
        self._comm.Allgather(np.array([elements], np.int64), sizes)
        super().__init__(comm.Get_rank(), sizes.tolist())
        try:
            # Memory of MPI's own: on one machine the others then reach it without messages.
            self._win = MPI.Win.Allocate(max(1, elements) * _ITEM, _ITEM, comm=self._comm)
        except MPI.Exception as error:
            raise failure(self._comm, "window", error) from None
        self._win.Set_errhandler(MPI.ERRORS_RETURN)
        self._own: Floats = np.frombuffer(cast("memoryview[int]", self._win.tomemory()), np.float32)[
            :elements
        ]
        self._own[:] = 0
        self._win.Sync()
        self._comm.Barrier()  # nobody writes before
        self._sent = np.zeros(comm.Get_size(), np.int64)
        self._near = _same_machine(self._comm)
        self._engine = _Engine(self._comm, f"rank {self.rank} window")

    def _call(self, what: str, job: Callable[[], None]) -> None:
        try:
            self._engine.do(job, self._limit)
        except Late:
            raise TransportTimeout(
                f"rank {MPI.COMM_WORLD.Get_rank()}: {what}: not complete within {self._limit} s"
            ) from None
        except MPI.Exception as error:
            raise failure(self._comm, what, error) from None

    def _write(self, values: Floats, target: int, offset: int, *, add: bool) -> None:
        where = (offset, values.size, MPI.FLOAT)

        def write() -> None:
            self._tell(target, _BEGIN)
            self._win.Lock(target, MPI.LOCK_EXCLUSIVE)
            if add:
                self._win.Accumulate((values, MPI.FLOAT), target, where, MPI.SUM)
            else:
                self._win.Put((values, MPI.FLOAT), target, where)
            self._win.Unlock(target)
            self._tell(target, _END)

        self._call(f"{'accumulate' if add else 'put'} into the window of rank {target}", write)

    def _tell(self, target: int, word: npt.NDArray[np.int8]) -> None:
        if target not in self._near:
            self._comm.Send(word, target)
            self._sent[target] += 1

    def _memory(self) -> Floats:
        return self._own

    def _lock(self) -> None:
        def lock() -> None:
            self._win.Lock(self.rank, MPI.LOCK_EXCLUSIVE)
            self._win.Sync()

        self._call("lock of its own window", lock)

    def _unlock(self) -> None:
        def unlock() -> None:
            self._win.Sync()
            self._win.Unlock(self.rank)

        self._call("unlock of its own window", unlock)

    def _close(self) -> None:
        if MPI.Is_finalized():
            return
        try:
            self._call("close of the window", self._finish)
            self._engine.stop()
            self._win.Free()
            self._comm.Free()
        except MPI.Exception as error:
            raise failure(MPI.COMM_WORLD, "close of the window", error) from None

    def _finish(self) -> None:
        """Waits until all ranks are here, and for their last words."""
        expected = np.empty_like(self._sent)
        self._comm.Alltoall(self._sent, expected)
        while self._engine.look() < expected.sum():
            pass


def _same_machine(comm: MPI.Comm) -> frozenset[int]:
    """The ranks of `comm` on this machine (collective)."""
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    here = machine.Get_group()
    ranks = MPI.Group.Translate_ranks(here, None, comm.Get_group())
    machine.Free()
    return frozenset(map(int, ranks))
