"""Device tensors over a transport that only takes host memory, by way of cached, pinned host buffers."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL, c_int
from typing import Any, NoReturn

from hpc_fl.comm.buffers import unusable
from hpc_fl.comm.transport import Addressed, Buffer, Persistent, ReduceOp, Request, Transport
from hpc_fl.comm.window import Window


def mpi_takes_device_memory() -> bool:
    """Whether the MPI library at hand can be given pointers to CUDA memory, collectives included."""
    components = os.environ.get("OMPI_MCA_coll", "")  # noqa: SIM112 - Open MPI's spelling
    if components.startswith("^") and "cuda" in components:
        return False  # Open MPI then reduces device memory with host code
    if os.environ.get("MPICH_GPU_SUPPORT_ENABLED") == "1" or os.environ.get("MV2_USE_CUDA") == "1":
        return True
    from mpi4py import MPI

    query = getattr(CDLL(MPI.__file__), "MPIX_Query_cuda_support", None)
    if query is None:
        return False
    query.restype = c_int
    return bool(query())


def on_device(buf: Buffer) -> bool:
    """Whether a buffer is a CUDA tensor."""
    return getattr(buf, "is_cuda", False)


class StagedTransport:
    """`inner`, which takes host memory only, with device tensors copied to and from host buffers.

    See Transport for the methods. Copies are ordered after what the current stream has been given, and are
    complete when the method (or the request's wait) returns. A message shorter than its buffer leaves the
    rest of that buffer undefined. `pin=False` and another `is_device` serve tests without a device.
    """

    def __init__(
        self, inner: Transport, *, is_device: Callable[[Buffer], bool] = on_device, pin: bool = True
    ) -> None:
        self._inner, self._is_device, self._pin = inner, is_device, pin
        self._idle: defaultdict[object, list[Any]] = defaultdict(list)
        self.rank, self.size = inner.rank, inner.size
        self.local_rank, self.local_size = inner.local_rank, inner.local_size
        self.name = f"{inner.name}, device tensors through host memory"
        self.concurrent = inner.concurrent

    def _take(self, tensor: Any, *, filled: bool) -> Any:
        """An idle host buffer like `tensor`, with its values where `filled`."""
        if not tensor.is_contiguous():
            raise unusable(tensor, "it is not contiguous; pass x.contiguous()")
        idle = self._idle[tensor.dtype, tensor.numel()]
        if idle:
            host = idle.pop()
        else:
            host = sys.modules["torch"].empty(tensor.numel(), dtype=tensor.dtype, pin_memory=self._pin)
        if filled:
            host.copy_(tensor.detach().reshape(-1))
        return host

    def _give(self, host: Any, tensor: Any = None) -> None:
        """Make `host` idle, after copying it to `tensor`."""
        if tensor is not None:
            tensor.detach().view(-1).copy_(host)
        self._idle[host.dtype, host.numel()].append(host)

    @contextmanager
    def _lent(self, buf: Buffer, *, read: bool = False, written: bool = False) -> Iterator[Buffer]:
        if not self._is_device(buf):
            yield buf
            return
        host = self._take(buf, filled=read)
        yield host  # after an exception the operation may still use it: it is not given back
        self._give(host, buf if written else None)

    def send(self, buf: Buffer, dest: int, tag: int = 0) -> None:
        with self._lent(buf, read=True) as host:
            self._inner.send(host, dest, tag)

    def recv(self, buf: Buffer, source: int, tag: int = 0) -> None:
        with self._lent(buf, written=True) as host:
            self._inner.recv(host, source, tag)

    def persistent(
        self, sends: Sequence[Addressed], receives: Sequence[Addressed], tag: int = 0
    ) -> Persistent:
        if not any(self._is_device(buf) for buf, _ in (*sends, *receives)):
            return self._inner.persistent(sends, receives, tag)

        def exchange() -> None:
            under_way = [self.irecv(buf, source, tag) for buf, source in receives]
            under_way += [self.isend(buf, dest, tag) for buf, dest in sends]
            for request in under_way:
                request.wait()

        return Persistent(exchange, lambda: None)

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        if not self._is_device(buf):
            return self._inner.isend(buf, dest, tag)
        host = self._take(buf, filled=True)
        return _StagedRequest(self._inner.isend(host, dest, tag), lambda: self._give(host))

    def irecv(self, buf: Buffer, source: int, tag: int = 0) -> Request:
        if not self._is_device(buf):
            return self._inner.irecv(buf, source, tag)
        host = self._take(buf, filled=False)
        return _StagedRequest(self._inner.irecv(host, source, tag), lambda: self._give(host, buf))

    def allreduce(self, buf: Buffer, op: ReduceOp = "sum") -> None:
        if not self._is_device(buf):
            self._inner.allreduce(buf, op)
            return
        with self._lent(buf, read=True, written=True) as host:
            self._inner.allreduce(host, op)

    def iallreduce(self, buf: Buffer, op: ReduceOp = "sum") -> Request:
        if not self._is_device(buf):
            return self._inner.iallreduce(buf, op)
        host = self._take(buf, filled=True)
        return _StagedRequest(self._inner.iallreduce(host, op), lambda: self._give(host, buf))

    def allgather(self, send: Buffer, recv: Buffer) -> None:
        with self._lent(send, read=True) as part, self._lent(recv, written=True) as whole:
            self._inner.allgather(part, whole)

    def allgatherv(self, send: Buffer, recv: Buffer, counts: Sequence[int]) -> None:
        with self._lent(send, read=True) as part, self._lent(recv, written=True) as whole:
            self._inner.allgatherv(part, whole, counts)

    def gather(self, send: Buffer, recv: Buffer | None, root: int = 0) -> None:
        with self._lent(send, read=True) as part:
            if recv is None or self.rank != root:
                self._inner.gather(part, None, root)
                return
            with self._lent(recv, written=True) as whole:
                self._inner.gather(part, whole, root)

    def alltoall(self, send: Buffer, recv: Buffer) -> None:
        with self._lent(send, read=True) as source, self._lent(recv, written=True) as target:
            self._inner.alltoall(source, target)

    def alltoallv(
        self, send: Buffer, send_counts: Sequence[int], recv: Buffer, recv_counts: Sequence[int]
    ) -> None:
        with self._lent(send, read=True) as source, self._lent(recv, written=True) as target:
            self._inner.alltoallv(source, send_counts, target, recv_counts)

    def broadcast(self, buf: Buffer, root: int = 0) -> None:
        with self._lent(buf, read=self.rank == root, written=self.rank != root) as host:
            self._inner.broadcast(host, root)

    def barrier(self) -> None:
        self._inner.barrier()

    def split(self, color: int, key: int = 0) -> "StagedTransport":
        return StagedTransport(self._inner.split(color, key), is_device=self._is_device, pin=self._pin)

    def dup(self) -> "StagedTransport":
        return StagedTransport(self._inner.dup(), is_device=self._is_device, pin=self._pin)

    def window(self, elements: int) -> Window:
        return self._inner.window(elements)

    def abort(self, code: int) -> NoReturn:
        self._inner.abort(code)

    def close(self) -> None:
        self._idle.clear()
        self._inner.close()


class _StagedRequest:
    """A request on a host buffer; `finish` brings the result to the device, once."""

    def __init__(self, request: Request, finish: Callable[[], None]) -> None:
        self._request = request
        self._finish: Callable[[], None] | None = finish

    def wait(self, timeout: float | None = None) -> None:
        self._request.wait(timeout)
        if self._finish is not None:
            finish, self._finish = self._finish, None
            finish()

    def done(self) -> bool:
        if not self._request.done():
            return False
        self.wait()
        return True
