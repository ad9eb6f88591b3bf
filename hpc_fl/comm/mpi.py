"""The transport over MPI: thin, because a small allreduce takes only a few microseconds."""

import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from fcntl import ioctl
from itertools import accumulate
from termios import FIONREAD
from typing import Final, NoReturn

from mpi4py import MPI

from hpc_fl.comm.buffers import (
    check_counts,
    check_equal_parts,
    check_own_count,
    check_rank,
    check_same_dtype,
    elements,
)
from hpc_fl.comm.mpi_messages import Message, Messages, TooLarge
from hpc_fl.comm.mpi_requests import MpiRequest, Several, failure, persistent
from hpc_fl.comm.mpi_window import MpiWindow
from hpc_fl.comm.transport import Addressed, Buffer, Persistent, ReduceOp, Request
from hpc_fl.errors import TransportError


class _Ops(dict[str, MPI.Op]):
    def __missing__(self, op: str) -> NoReturn:
        raise TransportError(f"allreduce: unknown operation {op!r}; use one of {', '.join(self)}")


_OPS: Final = _Ops(sum=MPI.SUM, min=MPI.MIN, max=MPI.MAX)
_IN_PLACE: Final = MPI.IN_PLACE
_READ_WITHIN: Final = 1.0
_NAP: Final = 0.001
MAX_ELEMENTS: Final = 2**31 - 1
"""Elements that one MPI call counts. Reductions and broadcasts of more are cut, other calls refused."""


class MpiTransport:
    """The ranks of an MPI communicator; see Transport for the methods.

    Works on a duplicate of `comm`, so that its messages never meet the user's; `close` frees it. Making one
    is collective. `timeout` (seconds) bounds every blocking call and wait; None waits for ever, in MPI's own
    calls. After a timeout the operation is still under way in MPI, and the transport is fit only for `abort`.
    What MPI reports becomes TransportError; under ULFM it names the ranks that died.
    CUDA tensors need `direct_device=True` and a CUDA-aware MPI, or a StagedTransport around this one.
    """

    def __init__(
        self,
        comm: MPI.Comm,
        timeout: float | None = None,
        *,
        direct_device: bool = False,
        max_elements: int = MAX_ELEMENTS,
    ) -> None:
        self._own(comm.Dup(), timeout, direct_device, max_elements)

    def _own(self, comm: MPI.Comm, timeout: float | None, direct_device: bool, limit: int) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self.comm, self.timeout = comm, timeout
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = machine.Get_rank(), machine.Get_size()
        machine.Free()
        vendor, version = MPI.get_vendor()
        self.name = f"{vendor} {'.'.join(map(str, version))}"
        self.concurrent = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._direct_device, self._limit = direct_device, limit
        messages = Messages(limit, direct_device=direct_device)
        self._moved, self._reduced, self._allreduce = messages.moved, messages.reduced, comm.Allreduce
        self._abandoned: list[Request] = []

    def _child(self, comm: MPI.Comm) -> "MpiTransport":
        child = object.__new__(MpiTransport)
        child._own(comm, self.timeout, self._direct_device, self._limit)
        return child

    def _run(
        self, what: str, call: Callable[..., None], start: Callable[..., MPI.Request], *args: object
    ) -> None:
        """`call(*args)`, or with a timeout `start(*args)` and a wait."""
        if self.timeout is not None:
            self._finish(self._start(what, start, *args))
            return
        try:
            call(*args)
        except MPI.Exception as error:
            raise failure(self.comm, what, error) from None

    def _start(
        self, what: str, start: Callable[..., MPI.Request], *args: object, keep: Buffer | None = None
    ) -> MpiRequest:
        try:
            return MpiRequest(self.comm, start(*args), what, self.timeout, (args, keep))
        except MPI.Exception as error:
            raise failure(self.comm, what, error) from None

    def _finish(self, request: Request) -> None:
        """Wait; should the wait give up, MPI still uses the buffers, so that the request is kept."""
        self._abandoned.append(request)
        request.wait()
        self._abandoned.pop()

    def send(self, buf: Buffer, dest: int, tag: int = 0) -> None:
        check_rank(dest, self.size, "dest")
        self._run(f"send to rank {dest}", self.comm.Send, self.comm.Isend, self._moved(buf), dest, tag)

    def recv(self, buf: Buffer, source: int, tag: int = 0) -> None:
        check_rank(source, self.size, "source")
        message = self._moved(buf, written=True)
        self._run(f"receive from rank {source}", self.comm.Recv, self.comm.Irecv, message, source, tag)

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        check_rank(dest, self.size, "dest")
        return self._start(f"send to rank {dest}", self.comm.Isend, self._moved(buf), dest, tag, keep=buf)

    def irecv(self, buf: Buffer, source: int, tag: int = 0) -> Request:
        check_rank(source, self.size, "source")
        message = self._moved(buf, written=True)
        return self._start(f"receive from rank {source}", self.comm.Irecv, message, source, tag, keep=buf)

    def persistent(
        self, sends: Sequence[Addressed], receives: Sequence[Addressed], tag: int = 0
    ) -> Persistent:
        for _, rank in (*sends, *receives):
            check_rank(rank, self.size, "rank")

        def in_time() -> None:
            under_way = [self.irecv(buf, source, tag) for buf, source in receives]
            under_way += [self.isend(buf, dest, tag) for buf, dest in sends]
            for request in under_way:
                self._finish(request)

        if self.timeout is not None:
            return Persistent(in_time, lambda: None)
        ranks = sorted({rank for _, rank in (*sends, *receives)})
        what = f"exchange with ranks {', '.join(map(str, ranks))}"
        try:
            incoming = [self.comm.Recv_init(self._moved(buf, written=True), of, tag) for buf, of in receives]
            outgoing = [self.comm.Send_init(self._moved(buf), to, tag) for buf, to in sends]
        except MPI.Exception as error:
            raise failure(self.comm, what, error) from None
        return persistent(self.comm, what, incoming + outgoing)

    def allreduce(self, buf: Buffer, op: ReduceOp = "sum") -> None:
        if self.timeout is not None:
            self._finish(self.iallreduce(buf, op))
            return
        try:
            self._allreduce(_IN_PLACE, self._reduced(buf), _OPS[op])
        except MPI.Exception as error:
            raise failure(self.comm, "allreduce", error) from None
        except TooLarge:
            for piece in _pieces(buf, self._limit):
                self.allreduce(piece, op)

    def iallreduce(self, buf: Buffer, op: ReduceOp = "sum") -> Request:
        try:
            message = self._reduced(buf)
        except TooLarge:
            return Several([self.iallreduce(piece, op) for piece in _pieces(buf, self._limit)])
        return self._start("allreduce", self.comm.Iallreduce, MPI.IN_PLACE, message, _OPS[op], keep=buf)

    def allgather(self, send: Buffer, recv: Buffer) -> None:
        check_same_dtype(send, recv)
        check_counts([elements(send)] * self.size, self.size, elements(recv), "allgather")
        part, whole = self._moved(send), self._moved(recv, written=True)
        whole = (whole[0], elements(send), whole[1])
        self._run("allgather", self.comm.Allgather, self.comm.Iallgather, part, whole)

    def allgatherv(self, send: Buffer, recv: Buffer, counts: Sequence[int]) -> None:
        check_same_dtype(send, recv)
        check_counts(counts, self.size, elements(recv), "allgather")
        check_own_count(elements(send), counts, self.rank)
        whole = _parts(self._moved(recv, written=True), counts)
        self._run("allgather", self.comm.Allgatherv, self.comm.Iallgatherv, self._moved(send), whole)

    def gather(self, send: Buffer, recv: Buffer | None, root: int = 0) -> None:
        check_rank(root, self.size, "root")
        whole = None
        if self.rank == root:
            if recv is None:
                raise TransportError("gather: the root must pass a receive buffer")
            check_same_dtype(send, recv)
            check_counts([elements(send)] * self.size, self.size, elements(recv), "gather")
            memory, datatype = self._moved(recv, written=True)
            whole = (memory, elements(send), datatype)
        self._run(
            f"gather to rank {root}", self.comm.Gather, self.comm.Igather, self._moved(send), whole, root
        )

    def alltoall(self, send: Buffer, recv: Buffer) -> None:
        check_same_dtype(send, recv)
        check_equal_parts(elements(send), elements(recv), self.size)
        parts = self._moved(send), self._moved(recv, written=True)
        self._run("alltoall", self.comm.Alltoall, self.comm.Ialltoall, *parts)

    def alltoallv(
        self, send: Buffer, send_counts: Sequence[int], recv: Buffer, recv_counts: Sequence[int]
    ) -> None:
        check_same_dtype(send, recv)
        check_counts(send_counts, self.size, elements(send), "alltoall send")
        check_counts(recv_counts, self.size, elements(recv), "alltoall receive")
        parts = _parts(self._moved(send), send_counts), _parts(self._moved(recv, written=True), recv_counts)
        self._run("alltoall", self.comm.Alltoallv, self.comm.Ialltoallv, *parts)

    def broadcast(self, buf: Buffer, root: int = 0) -> None:
        check_rank(root, self.size, "root")
        try:
            message = self._moved(buf, written=self.rank != root)
        except TooLarge:
            for piece in _pieces(buf, self._limit):
                self.broadcast(piece, root)
        else:
            self._run(f"broadcast from rank {root}", self.comm.Bcast, self.comm.Ibcast, message, root)

    def barrier(self) -> None:
        self._run("barrier", self.comm.Barrier, self.comm.Ibarrier)

    def split(self, color: int, key: int = 0) -> "MpiTransport":
        if color < 0:
            raise TransportError(f"split: color {color} is negative")
        try:
            return self._child(self.comm.Split(color, key))
        except MPI.Exception as error:
            raise failure(self.comm, "split", error) from None

    def dup(self) -> "MpiTransport":
        try:
            return self._child(self.comm.Dup())
        except MPI.Exception as error:
            raise failure(self.comm, "dup", error) from None

    def window(self, elements: int) -> MpiWindow:
        return MpiWindow(self.comm, elements, self.timeout)

    def abort(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd in (1, 2):
            _let_mpirun_read(fd)
        MPI.COMM_WORLD.Abort(code)
        raise SystemExit(code)

    def close(self) -> None:
        if self.comm == MPI.COMM_NULL or MPI.Is_finalized():
            return
        try:
            self.comm.Free()
        except MPI.Exception as error:
            raise failure(MPI.COMM_WORLD, "close", error) from None


def _let_mpirun_read(fd: int) -> None:
    """Wait until the pipe behind `fd` is empty: mpirun drops what it has not read when a job aborts."""
    end, waiting = time.monotonic() + _READ_WITHIN, bytearray(4)
    try:
        while stat.S_ISFIFO(os.fstat(fd).st_mode) and time.monotonic() < end:
            ioctl(fd, FIONREAD, waiting)
            if not any(waiting):
                return
            time.sleep(_NAP)
    except OSError:  # closed by the program
        return


def _pieces(buf: Buffer, limit: int) -> Iterator[Buffer]:
    """Consecutive views of at most `limit` elements."""
    flat = buf.reshape(-1)
    for start in range(0, elements(buf), limit):
        yield flat[start : start + limit]


def _parts(message: Message, counts: Sequence[int]) -> Message:
    """The message cut into one part per rank, without gaps."""
    memory, datatype = message
    return memory, counts, list(accumulate(counts[:-1], initial=0)), datatype
