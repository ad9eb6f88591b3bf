"""The transport over Horovod: its dense collectives, and MPI for what it has no operation for."""

import sys
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import numpy as np

from hpc_fl.comm.buffers import (
    check_counts,
    check_equal_parts,
    check_own_count,
    check_rank,
    check_same_dtype,
    elements,
    unusable,
)
from hpc_fl.comm.horovod_requests import HorovodRequest, failed
from hpc_fl.comm.horovod_start import start_horovod
from hpc_fl.comm.horovod_tensors import WORDS, dtype_name, flat_tensor
from hpc_fl.comm.mpi import MAX_ELEMENTS
from hpc_fl.comm.mpi_messages import Messages, TooLarge
from hpc_fl.comm.mpi_requests import Several
from hpc_fl.comm.transport import Addressed, Buffer, Persistent, ReduceOp, Request, Transport
from hpc_fl.comm.window import Window
from hpc_fl.errors import TransportError

if TYPE_CHECKING:
    from mpi4py import MPI
    from torch import Tensor

Members: TypeAlias = tuple[int, ...]

_OPS: Final = {"sum": "Sum", "min": "Min", "max": "Max"}
_REDUCED: Final = frozenset(["float32", "float64", "int32", "int64"])
_AVERAGED: Final = frozenset(["float32", "float64"])


class HorovodTransport:
    """The ranks of an MPI communicator under Horovod; see Transport for the methods.

    Reductions of 32- and 64-bit floats and signed integers, allgather(v), broadcast and alltoall(v) are
    Horovod's. Messages between two ranks, gather, barrier, windows, reductions of the other integers and
    elements of 16 bytes go over `mpi`, a transport over the same communicator: Horovod has no operation for
    them.
    What allgather and alltoall receive is copied once, as Horovod makes its own output.

    A group that `split` makes of all ranks is a process set, one for each set of ranks, kept until the root
    closes. Horovod makes these with all ranks together: a true part of a split group is a transport over MPI.

    Making one is collective and starts Horovod on a duplicate of `comm`; a process has one Horovod, so that
    there is one root at a time; `close` of the root shuts it down. `timeout`: as of MpiTransport. CUDA
    tensors need `direct_device=True` and a Horovod with NCCL, or a StagedTransport around this one; neither
    has run on a GPU yet. Raises the errors of start_horovod.
    """

    def __init__(
        self,
        comm: "MPI.Comm",
        mpi: Transport,
        timeout: float | None = None,
        *,
        direct_device: bool = False,
        max_elements: int = MAX_ELEMENTS,
    ) -> None:
        hvd = start_horovod(comm)
        sets = {tuple(range(mpi.size)): hvd.global_process_set}
        self._limits = timeout, direct_device, max_elements
        self._own(hvd, mpi, tuple(range(mpi.size)), sets, "hpc_fl")
        self._root = True

    def _own(self, hvd: Any, mpi: Transport, members: Members, sets: dict[Members, Any], prefix: str) -> None:
        """`members`: Horovod's numbers of the group's ranks; `sets`: process sets by their sorted ranks."""
        self.timeout, direct_device, self._limit = self._limits
        self.rank, self.size = mpi.rank, mpi.size
        self.local_rank, self.local_size = mpi.local_rank, mpi.local_size
        self.concurrent = mpi.concurrent
        self.name = f"Horovod {sys.modules['horovod'].__version__} over {mpi.name}"
        self._hvd, self._mpi, self._members, self._sets, self._prefix = hvd, mpi, members, sets, prefix
        self._set = sets[tuple(sorted(members))]
        self._order = sorted(range(self.size), key=members.__getitem__)
        self._messages = Messages(self._limit, direct_device=direct_device)
        self._operations, self._children = count(), count()
        self._root = self._closed = False

    def _child(self, mpi: Transport, members: Members) -> "HorovodTransport":
        child = object.__new__(HorovodTransport)
        child._limits = self._limits
        # All members make a group's children in one order, so that its operations have one name on all ranks.
        child._own(self._hvd, mpi, members, self._sets, f"{self._prefix}.{next(self._children)}")
        return child

    def _begin(
        self,
        what: str,
        call: Callable[..., int],
        *args: Any,
        finish: Callable[[Any], None] | None = None,
        **more: Any,
    ) -> HorovodRequest:
        name = f"{self._prefix}/{next(self._operations)}"
        what = f"rank {self.rank}: {what}"
        try:
            handle = call(*args, name=name, process_set=self._set, **more)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise failed(what, error) from None
        return HorovodRequest(self._hvd, handle, what, self.timeout, finish)

    def send(self, buf: Buffer, dest: int, tag: int = 0) -> None:
        self._mpi.send(buf, dest, tag)

    def recv(self, buf: Buffer, source: int, tag: int = 0) -> None:
        self._mpi.recv(buf, source, tag)

    def persistent(
        self, sends: Sequence[Addressed], receives: Sequence[Addressed], tag: int = 0
    ) -> Persistent:
        return self._mpi.persistent(sends, receives, tag)

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        return self._mpi.isend(buf, dest, tag)

    def irecv(self, buf: Buffer, source: int, tag: int = 0) -> Request:
        return self._mpi.irecv(buf, source, tag)

    def allreduce(self, buf: Buffer, op: ReduceOp = "sum") -> None:
        self.iallreduce(buf, op).wait()

    def iallreduce(self, buf: Buffer, op: ReduceOp = "sum") -> Request:
        if op not in _OPS:
            raise TransportError(f"allreduce: unknown operation {op!r}; use one of {', '.join(_OPS)}")
        try:
            self._messages.reduced(buf)
        except TooLarge:
            return Several([self.iallreduce(piece, op) for piece in self._pieces(buf)])
        if dtype_name(buf) not in _REDUCED:
            return self._mpi.iallreduce(buf, op)
        return self._begin(
            f"allreduce {op} of {elements(buf)} elements",
            self._hvd.allreduce_async_, flat_tensor(buf), op=getattr(self._hvd, _OPS[op]),
        )  # fmt: skip

    def adasum(self, buf: Buffer) -> None:
        """Combine `buf` of all ranks by Adasum (Maleki et al., arXiv:2006.02924), in place (collective).

        Of two: (1 - a.b / 2|a|^2) a + (1 - a.b / 2|b|^2) b; of more, that of pairs of such. Takes 32- and
        64-bit floats and all ranks, whose number must be a power of two: a TransportError otherwise.
        """
        if len(self._members) != self._hvd.size():
            raise TransportError("adasum: Horovod has it for all ranks only, not for a part of them")
        if self.size & (self.size - 1):
            raise TransportError(f"adasum: {self.size} ranks, Horovod wants a power of two")
        self._messages.reduced(buf)
        if dtype_name(buf) not in _AVERAGED:
            raise unusable(buf, "Adasum takes 32- and 64-bit floats; convert it, e.g. to float32")
        self._begin("adasum", self._hvd.allreduce_async_, flat_tensor(buf), op=self._hvd.Adasum).wait()

    def allgather(self, send: Buffer, recv: Buffer) -> None:
        check_same_dtype(send, recv)
        self.allgatherv(send, recv, [elements(send)] * self.size)

    def allgatherv(self, send: Buffer, recv: Buffer, counts: Sequence[int]) -> None:
        check_same_dtype(send, recv)
        check_counts(counts, self.size, elements(recv), "allgather")
        check_own_count(elements(send), counts, self.rank)
        part, whole = self._words(send), self._words(recv, written=True)
        if part is None or whole is None:
            self._mpi.allgatherv(send, recv, counts)
        else:
            place = lambda got: self._place(got, counts, whole)  # noqa: E731
            self._begin("allgather", self._hvd.allgather_async, part, finish=place).wait()

    def gather(self, send: Buffer, recv: Buffer | None, root: int = 0) -> None:
        self._mpi.gather(send, recv, root)

    def alltoall(self, send: Buffer, recv: Buffer) -> None:
        check_same_dtype(send, recv)
        check_equal_parts(elements(send), elements(recv), self.size)
        counts = [elements(send) // self.size] * self.size
        self.alltoallv(send, counts, recv, counts)

    def alltoallv(
        self, send: Buffer, send_counts: Sequence[int], recv: Buffer, recv_counts: Sequence[int]
    ) -> None:
        check_same_dtype(send, recv)
        check_counts(send_counts, self.size, elements(send), "alltoall send")
        check_counts(recv_counts, self.size, elements(recv), "alltoall receive")
        source, target = self._words(send), self._words(recv, written=True)
        if source is None or target is None:
            self._mpi.alltoallv(send, send_counts, recv, recv_counts)
            return

        def place(got: tuple[Any, Any]) -> None:
            if got[1].tolist() != [recv_counts[r] for r in self._order]:
                sent = {
                    r: n for r, n in zip(self._order, got[1].tolist(), strict=True) if n != recv_counts[r]
                }
                raise TransportError(f"alltoall: ranks sent other counts than this one expects: {sent}")
            self._place(got[0], recv_counts, target)

        parts = self._parts(source, send_counts)
        self._begin("alltoall", self._hvd.alltoall_async, *parts, finish=place).wait()

    def broadcast(self, buf: Buffer, root: int = 0) -> None:
        check_rank(root, self.size, "root")
        try:
            words = self._words(buf, written=self.rank != root)
        except TooLarge:
            for piece in self._pieces(buf):
                self.broadcast(piece, root)
            return
        if words is None:
            self._mpi.broadcast(buf, root)
        else:
            source = self._members[root]
            self._begin(f"broadcast from rank {root}", self._hvd.broadcast_async_, words, source).wait()

    def barrier(self) -> None:
        self._mpi.barrier()

    def split(self, color: int, key: int = 0) -> Transport:
        if color < 0:
            raise TransportError(f"split: color {color} is negative")
        answers = np.empty((self.size, 2), np.int64)
        self._mpi.allgather(np.array([color, key]), answers)
        groups: dict[int, list[tuple[int, int]]] = {}
        for rank, (theirs, order) in enumerate(answers.tolist()):
            groups.setdefault(theirs, []).append((order, rank))
        members = {c: tuple(self._members[r] for _, r in sorted(groups[c])) for c in sorted(groups)}
        if len(self._members) == self._hvd.size():
            for group in members.values():
                self._add_set(tuple(sorted(group)))
        mpi = self._mpi.split(color, key)
        if tuple(sorted(members[color])) not in self._sets:
            return mpi
        return self._child(mpi, members[color])

    def _add_set(self, ranks: Members) -> None:
        if ranks not in self._sets:
            try:
                self._sets[ranks] = self._hvd.add_process_set(list(ranks))
            except ValueError as error:
                raise failed(f"rank {self.rank}: split", error) from None

    def dup(self) -> "HorovodTransport":
        return self._child(self._mpi.dup(), self._members)

    def window(self, elements: int) -> Window:
        return self._mpi.window(elements)

    def abort(self, code: int) -> NoReturn:
        self._mpi.abort(code)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._root:
            self._mpi.barrier()  # a rank that shuts Horovod down ends the operations of all
            self._hvd.shutdown()
        self._mpi.close()

    def _words(self, buf: Buffer, *, written: bool = False) -> "Tensor | None":
        """A usable buffer as a flat tensor of integers; None where Horovod has none so large."""
        self._messages.moved(buf, written=written)
        word = WORDS.get(buf.itemsize)
        return None if word is None else flat_tensor(buf, word)

    def _parts(self, source: "Tensor", counts: Sequence[int]) -> "tuple[Tensor, Tensor]":
        """The parts in the head of `source` in Horovod's order of ranks, and their lengths."""
        torch = sys.modules["torch"]
        head = source[: sum(counts)]
        if self._order != list(range(self.size)):
            parts = torch.split(head, list(counts))
            head = torch.cat([parts[r] for r in self._order])
        return head, torch.tensor([counts[r] for r in self._order], dtype=torch.int32)

    def _place(self, got: Any, counts: Sequence[int], target: "Tensor") -> None:
        """Put what came from each rank, in Horovod's order of ranks, into the head of `target` by rank."""
        offset = np.cumsum([0, *counts]).tolist()
        parts = got.split([counts[r] for r in self._order])
        for rank, part in zip(self._order, parts, strict=True):
            target[offset[rank] : offset[rank + 1]].copy_(part)

    def _pieces(self, buf: Buffer) -> list[Buffer]:
        """Consecutive views of at most as many elements as one operation counts."""
        flat = buf.reshape(-1)
        return [flat[start : start + self._limit] for start in range(0, elements(buf), self._limit)]
