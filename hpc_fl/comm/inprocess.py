"""Ranks as threads of one process: the transport of tests, and (alone) of a run without MPI.

All ranks of a run share one hub. Every operation is a parcel left there under a key that both sides can name
(group, source, dest, tag, number), so that messages never overtake and collectives never mix.
"""

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from hpc_fl.comm.buffers import (
    check_counts,
    check_equal_parts,
    check_own_count,
    check_rank,
    check_reducible,
    check_same_dtype,
    host_array,
)
from hpc_fl.comm.hub import Done, Hub, Pending
from hpc_fl.comm.inprocess_window import InProcessWindow, Shelf
from hpc_fl.comm.transport import Addressed, Buffer, Persistent, ReduceOp, Request
from hpc_fl.errors import TransportError, TransportTimeout

T = TypeVar("T")
Array = npt.NDArray[Any]

_REDUCE: Final[dict[str, Callable[..., Array]]] = {"sum": np.add, "min": np.minimum, "max": np.maximum}
_JOIN_GRACE: Final = 1.0


class InProcessTransport:
    """One rank of a group of threads, made by `solo` and `run_ranks`; see Transport for the methods.

    `send` keeps a copy and never blocks. Reductions are made in rank order. When another rank has failed,
    whatever waits raises TransportError.
    """

    name = "in-process"
    concurrent = True

    def __init__(self, hub: Hub, group: Hashable, rank: int, size: int) -> None:
        self._hub, self._group = hub, group
        self.rank = self.local_rank = rank
        self.size = self.local_size = size
        self._collectives = itertools.count()
        self._sent: defaultdict[Hashable, int] = defaultdict(int)
        self._posted: defaultdict[Hashable, int] = defaultdict(int)

    def send(self, buf: Buffer, dest: int, tag: int = 0) -> None:
        check_rank(dest, self.size, "dest")
        data = host_array(buf).tobytes()
        number = self._sent[dest, tag]
        self._sent[dest, tag] += 1
        self._hub.put((self._group, self.rank, dest, tag, number), self.rank, data)

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        self.send(buf, dest, tag)
        return Done()

    def recv(self, buf: Buffer, source: int, tag: int = 0) -> None:
        self.irecv(buf, source, tag).wait()

    def persistent(
        self, sends: Sequence[Addressed], receives: Sequence[Addressed], tag: int = 0
    ) -> Persistent:
        def exchange() -> None:
            for buf, dest in sends:
                self.send(buf, dest, tag)
            for buf, source in receives:
                self.recv(buf, source, tag)

        return Persistent(exchange, lambda: None)

    def irecv(self, buf: Buffer, source: int, tag: int = 0) -> Request:
        check_rank(source, self.size, "source")
        target = host_array(buf, written=True).reshape(-1).view(np.uint8)
        what = f"rank {self.rank}: receive from rank {source} (tag {tag})"
        number = self._posted[source, tag]
        self._posted[source, tag] += 1

        def finish(parcels: list[bytes]) -> None:
            data = np.frombuffer(parcels[0], np.uint8)
            if data.size > target.size:
                raise TransportError(f"{what}: a message of {data.size} bytes, a buffer of {target.size}")
            target[: data.size] = data

        return Pending(self._hub, (self._group, source, self.rank, tag, number), (source,), 1, what, finish)

    def _meet(self, kind: str, parcel: object, finish: Callable[[list[Any]], None]) -> Pending:
        """Leave this rank's parcel for all ranks; `finish` gets everybody's, by rank."""
        key = (self._group, next(self._collectives))
        what = f"rank {self.rank}: {kind}"

        def check(parcels: list[tuple[str, object]]) -> None:
            if any(other != kind for other, _ in parcels):
                kinds = "; ".join(f"{rank}: {other}" for rank, (other, _) in enumerate(parcels))
                raise TransportError(f"ranks called different collectives, by rank: {kinds}")
            finish([value for _, value in parcels])

        self._hub.put(key, self.rank, (kind, parcel))
        return Pending(self._hub, key, range(self.size), self.size, what, check)

    def iallreduce(self, buf: Buffer, op: ReduceOp = "sum") -> Request:
        array = host_array(buf, written=True)
        if op not in _REDUCE:
            raise TransportError(f"allreduce: unknown operation {op!r}; use one of {', '.join(_REDUCE)}")
        check_reducible(buf)
        if self.size == 1:
            return Done()
        reduce = _REDUCE[op]

        def finish(parts: list[Array]) -> None:
            np.copyto(array, parts[0])
            for part in parts[1:]:
                reduce(array, part, out=array)

        return self._meet(f"allreduce {op} of {array.dtype}[{array.size}]", array.copy(), finish)

    def allreduce(self, buf: Buffer, op: ReduceOp = "sum") -> None:
        self.iallreduce(buf, op).wait()

    def allgather(self, send: Buffer, recv: Buffer) -> None:
        part = host_array(send)
        self.allgatherv(part, host_array(recv, written=True), [part.size] * self.size)

    def allgatherv(self, send: Buffer, recv: Buffer, counts: Sequence[int]) -> None:
        part, whole = _pair(send, recv)
        check_counts(counts, self.size, whole.size, "allgather")
        check_own_count(part.size, counts, self.rank)
        self._meet("allgather", part.copy(), lambda parts: _concatenate(parts, whole)).wait()

    def gather(self, send: Buffer, recv: Buffer | None, root: int = 0) -> None:
        check_rank(root, self.size, "root")
        part = host_array(send)
        finish: Callable[[list[Array]], None] = _ignore
        if self.rank == root:
            if recv is None:
                raise TransportError("gather: the root must pass a receive buffer")
            part, whole = _pair(send, recv)
            check_counts([part.size] * self.size, self.size, whole.size, "gather")
            finish = lambda parts: _concatenate(parts, whole)  # noqa: E731
        self._meet(f"gather to {root}", part.copy(), finish).wait()

    def alltoall(self, send: Buffer, recv: Buffer) -> None:
        source, target = _pair(send, recv)
        check_equal_parts(source.size, target.size, self.size)
        counts = [source.size // self.size] * self.size
        self.alltoallv(source, counts, target, counts)

    def alltoallv(
        self, send: Buffer, send_counts: Sequence[int], recv: Buffer, recv_counts: Sequence[int]
    ) -> None:
        source, target = _pair(send, recv)
        check_counts(send_counts, self.size, source.size, "alltoall send")
        check_counts(recv_counts, self.size, target.size, "alltoall receive")
        parts = np.split(source.reshape(-1)[: sum(send_counts)].copy(), np.cumsum(send_counts)[:-1])

        def finish(everyone: list[list[Array]]) -> None:
            _concatenate([theirs[self.rank] for theirs in everyone], target)

        self._meet("alltoall", parts, finish).wait()

    def broadcast(self, buf: Buffer, root: int = 0) -> None:
        check_rank(root, self.size, "root")
        flat = host_array(buf, written=self.rank != root).reshape(-1)
        parcel = flat.copy() if self.rank == root else None
        finish = _ignore if self.rank == root else lambda parts: np.copyto(flat, parts[root])
        self._meet(f"broadcast from {root} of {flat.dtype}[{flat.size}]", parcel, finish).wait()

    def barrier(self) -> None:
        if self.size > 1:
            self._meet("barrier", None, _ignore).wait()

    def split(self, color: int, key: int = 0) -> "InProcessTransport":
        if color < 0:
            raise TransportError(f"split: color {color} is negative")
        made: list[InProcessTransport] = []

        def finish(answers: list[tuple[int, int]]) -> None:
            members = sorted((k, rank) for rank, (c, k) in enumerate(answers) if c == color)
            mine = members.index((key, self.rank))
            made.append(InProcessTransport(self._hub, (pending.key, color), mine, len(members)))

        pending = self._meet("split", (color, key), finish)
        pending.wait()
        return made[0]

    def dup(self) -> "InProcessTransport":
        return self.split(0)

    def window(self, elements: int) -> InProcessWindow:
        shelves: list[Shelf] = []
        self._meet("window", Shelf.of(elements), shelves.extend).wait()
        return InProcessWindow(self.rank, shelves, self._hub.timeout, self.barrier)

    def abort(self, code: int) -> NoReturn:
        self._hub.fail(f"rank {self.rank} aborted with exit code {code}")
        raise SystemExit(code)

    def close(self) -> None:
        """Nothing is held."""


def _ignore(parts: list[Any]) -> None:
    """What a rank does with the parcels of a collective that gives it nothing."""


def _pair(send: Buffer, recv: Buffer) -> tuple[Array, Array]:
    check_same_dtype(send, recv)
    return host_array(send), host_array(recv, written=True)


def _concatenate(parts: Sequence[Array], whole: Array) -> None:
    joined = np.concatenate([part.reshape(-1) for part in parts])
    if joined.size > whole.size:
        raise TransportError(f"received {joined.size} elements, the buffer has {whole.size}")
    whole.reshape(-1)[: joined.size] = joined


def solo() -> InProcessTransport:
    """The transport of a process that runs alone: rank 0 of 1."""
    return InProcessTransport(Hub(None), "world", 0, 1)


def run_ranks(size: int, fn: Callable[[InProcessTransport], T], timeout: float = 60.0) -> list[T]:
    """Call `fn(transport)` in `size` threads, one per rank, and return what they returned, by rank.

    `timeout` (seconds) bounds the whole run. When a rank raises, the others get TransportError from whatever
    they wait in, and run_ranks raises the first exception. Raises TransportTimeout when ranks are still at
    work when the time is over; their threads are left behind as daemons.
    """
    hub = Hub(timeout)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = fn(InProcessTransport(hub, "world", rank, size))
        except BaseException as error:
            failures.append(error)
            hub.fail(f"rank {rank} failed: {type(error).__name__}: {error}")

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)
    ]
    end = time.monotonic() + timeout + _JOIN_GRACE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if failures:
        raise failures[0]
    if late := [str(rank) for rank, thread in enumerate(threads) if thread.is_alive()]:
        raise TransportTimeout(f"rank {', '.join(late)} still at work after {timeout} s")
    return [results[rank] for rank in range(size)]
