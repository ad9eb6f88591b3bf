"""Rank-level neighbour collectives whose neighbours are named in each call.

After BlueFog: Ying et al.: BlueFog: Make Decentralized Algorithms Practical for Optimization and Deep
Learning, 2021. ``x <- self_weight x + sum_j src_weights[j] d_j x_j`` over the sources j, where d_j is the
weight that j gives to its messages for this rank in its ``dst_weights``, 1 where it gives none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_fl.collectives.agreement import agree
from hpc_fl.collectives.algorithm import TAG, kept_if_it_fails, settle
from hpc_fl.collectives.columns import Columns
from hpc_fl.collectives.front_door import transport_of
from hpc_fl.collectives.gossip_encoded import Arrivals
from hpc_fl.collectives.lane import Lane, Running
from hpc_fl.collectives.messages import send_gossip
from hpc_fl.collectives.routes import Received, Routes, Sent
from hpc_fl.comm.buffers import unusable
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression.arrays import all_finite
from hpc_fl.compression.base import Base
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import MixingMatrix

if TYPE_CHECKING:
    from mpi4py import MPI

Destinations = Mapping[int, float] | Sequence[int]
_NO_MATRIX = MixingMatrix(())


class NeighborAllreduce:
    """The sum above, dense or with buffers encoded by ``codec``, for many calls. Making one is collective.

    Works on a duplicate of ``comm``, a transport or a communicator. Receives as :class:`Columns` does,
    whatever the number of sources; sends one scaled copy (n,) for each weight other than 1 in
    ``dst_weights``. Of an encoded buffer the sources' part is what it decodes to, and nothing is kept back:
    mixers do better with codecs that lose much. The ledger counts "gossip" and "headers".
    """

    def __init__(
        self, comm: Transport | MPI.Comm, codec: Base | None = None, *, ledger: Ledger | None = None
    ) -> None:
        given = transport_of(comm)
        self._transport = given if given is not comm else given.dup()
        self._codec, self._ledger = codec, ledger or Ledger()
        self._columns, self._calls = Columns(self._transport, 1), count()
        self._lane = Lane("neighbor allreduce")

    def allreduce(
        self,
        buffer: Any,
        *,
        self_weight: float | None = None,
        src_weights: Mapping[int, float],
        dst_weights: Destinations,
        check: bool = False,
    ) -> None:
        """Overwrites ``buffer``, a contiguous torch tensor or NumPy array of float32 (or float64, without a
        codec) of any shape, and waits.

        ``src_weights``: by rank, those that send here; ``dst_weights``: by rank or as a list, those this rank
        sends to. The two must fit on all ranks; ranks without neighbours need not call. With ``check`` every
        rank must, and each raises :class:`TransportError` that names the ranks where a message has no
        receive, a receive no message, or where shapes, dtypes or codecs differ. ``self_weight`` None: 1 less
        the sum of ``src_weights``.

        A buffer that is not finite reaches nobody and stays as it is; its takers keep ``src_weights`` of it
        of their own. Raises :class:`TransportError` for other buffers, ranks that there are not or the own
        one; :class:`CodecError`; :class:`WireError`, naming the sender.
        """
        call = self._prepared(buffer, self_weight, src_weights, dst_weights)
        self._lane.run(lambda: self._run(buffer, call, check))

    def start(
        self,
        buffer: Any,
        *,
        self_weight: float | None = None,
        src_weights: Mapping[int, float],
        dst_weights: Destinations,
        check: bool = False,
    ) -> Running[None]:
        """Begins to; ``buffer`` is not to be touched before ``wait()``. Raises :class:`TransportError` where
        MPI was started without MPI_THREAD_MULTIPLE.
        """
        if not self._transport.concurrent:
            raise TransportError(
                f"start: {self._transport.name} was not started for several threads "
                "(MPI_THREAD_MULTIPLE); use allreduce"
            )
        call = self._prepared(buffer, self_weight, src_weights, dst_weights)
        return self._lane.submit(lambda: self._run(buffer, call, check))

    def close(self) -> None:
        """Waits for what is under way and frees the transport (collective)."""
        self._lane.close()
        self._transport.close()

    def _prepared(
        self, buffer: Any, self_weight: float | None, sources: Mapping[int, float], targets: Destinations
    ) -> tuple[Routes, tuple[float, ...]]:
        """The call as routes of one row, of which copies are sent: by what each is multiplied by."""
        rank, size = self._transport.rank, self._transport.size
        scales = dict(targets) if isinstance(targets, Mapping) else dict.fromkeys(targets, 1.0)
        _check_ranks("src_weights", sources, rank, size)
        _check_ranks("dst_weights", scales, rank, size)
        dtypes = (torch.float32, torch.float64) if self._codec is None else (torch.float32,)
        _check_buffer(buffer, dtypes)
        order = [(rank + step) % size for step in range(1, size)]
        copies = tuple(sorted(set(scales.values())))
        sent = tuple(
            Sent(rank, copy, tuple(to for to in order if scales.get(to) == scale))
            for copy, scale in enumerate(copies)
        )
        received = tuple(
            Received(source, source, ((0, sources[source]),))
            for source in reversed(order)
            if source in sources
        )
        own = 1.0 - sum(sources.values()) if self_weight is None else self_weight
        return Routes(_NO_MATRIX, (rank,), sent, received, np.array([[own]]), ((),)), copies

    def _run(self, buffer: Any, call: tuple[Routes, tuple[float, ...]], check: bool) -> None:
        routes, scales = call
        if check:
            self._check(buffer, routes)
        row = _row(buffer)
        sound = all_finite(row)
        copies = [_scaled(row, scale) if sound else None for scale in scales]
        if self._codec is None:
            self._columns.mix(routes, row[None], copies, [sound])
            leaving = sum(len(sent.ranks) for sent in routes.sent)
            self._ledger.add("gossip", row.nbytes * leaving if sound else 0)
        else:
            self._run_encoded(self._codec, row, copies, routes)
        if isinstance(buffer, Tensor) and not buffer.is_cpu:
            buffer.copy_(torch.from_numpy(row).view(buffer.shape))

    def _run_encoded(
        self, codec: Base, row: NDArray[Any], copies: Sequence[NDArray[Any] | None], routes: Routes
    ) -> None:
        number, rank = next(self._calls), self._transport.rank
        sends: list[Request] = []
        x, sound = torch.from_numpy(row), all_finite(row)
        with kept_if_it_fails(sends):
            arrivals = Arrivals(self._transport, codec, routes, x[None])
            with kept_if_it_fails(arrivals):
                for sent in routes.sent:
                    copy = copies[sent.row]
                    payload = None if copy is None else codec.at(number, rank).encode(copy)
                    sends += send_gossip(self._transport, self._ledger, payload, sent.ranks)
                before, own = row.copy(), float(routes.weights[0, 0])
                row *= row.dtype.type(own) if sound else 1
                for takers, reading in arrivals.readings():
                    for _, weight in takers if sound else ():
                        if reading is None:
                            row += row.dtype.type(weight) * before
                        else:
                            reading.add(weight, row)
            settle(*sends)

    def _check(self, buffer: Any, routes: Routes) -> None:
        """Raises :class:`TransportError` on all ranks where the calls do not fit (collective)."""
        size = self._transport.size
        facts = {
            "collective": "neighbor allreduce",
            "codec": self._codec,
            "shape": tuple(buffer.shape),
            "dtype": str(buffer.dtype).removeprefix("torch."),
        }
        agree(self._transport, facts, 0.0)
        mine = np.zeros((2, size), np.uint8)
        mine[0, [to for sent in routes.sent for to in sent.ranks]] = 1
        mine[1, [source.rank for source in routes.received]] = 1
        whole = np.zeros((size, 2, size), np.uint8)
        self._transport.allgather(mine, whole)
        sends, receives = whole[:, 0], whole[:, 1].T
        wrong = [f"rank {i} sends to {j}, which expects nothing" for i, j in np.argwhere(sends > receives)]
        wrong += [f"rank {j} expects {i}, which sends nothing" for i, j in np.argwhere(receives > sends)]
        if wrong:
            raise TransportError(
                f"neighbor allreduce: {'; '.join(wrong[:8])}; src_weights of a rank must name those "
                "that have it in their dst_weights"
            )


def neighbor_allreduce(
    buffer: Any,
    comm: Transport | MPI.Comm,
    *,
    self_weight: float | None = None,
    src_weights: Mapping[int, float],
    dst_weights: Destinations,
    codec: Base | None = None,
    check: bool = False,
    ledger: Ledger | None = None,
) -> None:
    """One call of :meth:`NeighborAllreduce.allreduce`. Every rank must call it, also without neighbours."""
    once = NeighborAllreduce(comm, codec, ledger=ledger)
    once.allreduce(
        buffer, self_weight=self_weight, src_weights=src_weights, dst_weights=dst_weights, check=check
    )
    once.close()  # not after an error, when other ranks may be elsewhere


def neighbor_allgather(
    buffer: Any,
    comm: Transport | MPI.Comm,
    sources: Sequence[int],
    targets: Sequence[int],
    *,
    ledger: Ledger | None = None,
) -> Any:
    """The buffers of ``sources``, in that order: (number of sources, \\*shape of ``buffer``), of its kind.

    ``targets``: the ranks that ``buffer`` goes to: contiguous, of one shape and dtype everywhere. Every rank
    must call it, also without neighbours. Raises :class:`TransportError` for ranks that there are not, or
    twice.
    """
    with _own(comm) as transport:
        _check_ranks("sources", sources, transport.rank, transport.size)
        _check_ranks("targets", targets, transport.rank, transport.size)
        shape = (len(sources), *buffer.shape)
        found = buffer.new_empty(shape) if isinstance(buffer, Tensor) else np.empty(shape, buffer.dtype)
        receives = [transport.irecv(part, source, TAG) for part, source in zip(found, sources, strict=True)]
        sends = [transport.isend(buffer, target, TAG) for target in targets]
        with kept_if_it_fails(found, receives, sends):
            settle(*receives, *sends)
        if ledger is not None:
            ledger.add("gossip", buffer.nbytes * len(targets))
    return found


@contextmanager
def _own(comm: Transport | MPI.Comm) -> Iterator[Transport]:
    """A duplicate for one call; not closed after an error, when other ranks may be elsewhere."""
    given = transport_of(comm)
    transport = given if given is not comm else given.dup()
    yield transport
    transport.close()


def _row(buffer: Any) -> NDArray[Any]:
    """The elements of a buffer in host memory (n,): its own where it is there."""
    array: NDArray[Any] = buffer.detach().cpu().numpy() if isinstance(buffer, Tensor) else buffer
    return array.reshape(-1)


def _scaled(row: NDArray[Any], scale: float) -> NDArray[Any]:
    return row if scale == 1 else row * row.dtype.type(scale)


def _check_ranks(what: str, ranks: Iterable[int], rank: int, size: int) -> None:
    """Raises :class:`TransportError` unless these are other ranks, once each."""
    given = list(ranks)
    if len(set(given)) < len(given) or rank in given or any(not 0 <= one < size for one in given):
        raise TransportError(
            f"{what}: ranks {given[:16]} given on rank {rank}; other ranks of 0 to {size - 1} expected, "
            "once each"
        )


def _check_buffer(buffer: Any, dtypes: Sequence[torch.dtype]) -> None:
    """Raises :class:`TransportError` unless it is contiguous and of one of the dtypes."""
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    if not isinstance(buffer, Tensor | np.ndarray):
        raise unusable(buffer, "pass a NumPy array or a torch tensor")
    if str(buffer.dtype).removeprefix("torch.") not in names:
        raise unusable(buffer, f"{' or '.join(names)} expected; convert it")
    contiguous = buffer.is_contiguous() if isinstance(buffer, Tensor) else buffer.flags.carray
    if not contiguous:
        raise unusable(buffer, "it is not contiguous; pass a contiguous one")
