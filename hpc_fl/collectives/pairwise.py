"""Averaging of two ranks at a time, without meetings.

X. Lian, W. Zhang, C. Zhang, J. Liu: Asynchronous Decentralized Parallel Stochastic Gradient Descent, ICML
2018 (AD-PSGD). There a rank that asks must not be asked meanwhile, or a ring of ranks waits for itself; the
paper divides the graph in two halves, of which one asks. Here every rank may ask any neighbour, on any graph:

    rank i asks                                  rank j, its service thread
    s = copy of x_i          ------ s ----->     d = (s - x_j) / 2
                                                 x_j <- x_j + d
    x_i <- x_i - d           <----- d ------

A service thread answers at once and never asks; so nobody who waits is waited for. Both ends apply one d,
with opposite signs: the sum of all x is preserved to rounding, whatever comes between. The price: x_i may
move between its copy and the answer (by its own training, or by ranks that ask it), and d is then as old as
one request. AD-PSGD allows for that staleness.

A rank that is asked while its own request is under way moves half as far, d = (s - x_j) / 4. Without that,
two ranks that ask each other at the same moment would change places (each moves to the mean, and then once
more by half the old difference), and a ring of an even number of ranks that all ask to the right would never
agree. With it, two requests that cross make one exact average.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.collectives.agreement import agree
from hpc_fl.collectives.algorithm import kept_if_it_fails
from hpc_fl.collectives.lane import Lane, Running
from hpc_fl.collectives.pairwise_service import ANSWER, ASK, HEADER, REQUEST, VALUES, Service, Shared, settle
from hpc_fl.comm.buffers import check_rank
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression.arrays import all_finite
from hpc_fl.counter import below, key
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger

_ITEM: Final = 4


@dataclass(frozen=True)
class Averaged:
    """How a request went. ``peer``: the rank asked; None where there is no neighbour.

    ``not_finite``: the rank, this one or the peer, whose buffer held a NaN or an infinity: then nothing of it
    travelled, and both buffers are as they were. None: averaged.
    """

    peer: int | None
    not_finite: int | None = None


class PairwiseAverager:
    """Averages ``buffer`` (n,) float32 of this rank with those of neighbours, one at a time; see the module.

    A service thread answers the others from now until :meth:`close`, and so changes the buffer at any time:
    touch it inside :meth:`locked` only, or through :meth:`add`. ``neighbours``: the ranks that may be asked,
    and may ask; None: all others. Needs 8 (n + 1) bytes of scratch. ``seed``: of the choice of peers.
    ``timeout`` (seconds) bounds the wait for a peer's answer; None waits for ever. After a timeout the sum
    may not be preserved, and the job is fit only for ``abort``.

    Making one is collective. Raises :class:`TransportError`, on every rank alike, where n differs, or j is a
    neighbour of i and i none of j; and where the transport does not take several threads.
    """

    name: Final = "pairwise averaging"

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        buffer: Tensor,
        *,
        neighbours: Sequence[int] | None = None,
        seed: int = 0,
        timeout: float | None = None,
    ) -> None:
        if transport.size > 1 and not transport.concurrent:
            raise TransportError(
                f"pairwise averaging: {transport.name} was not started for several threads; start MPI with "
                "MPI_THREAD_MULTIPLE"
            )
        self._shared = Shared(buffer, f"rank {transport.rank}: buffer of the pairwise averaging")
        self._transport, self._ledger, self._timeout = transport.dup(), ledger, timeout
        others = [rank for rank in range(transport.size) if rank != transport.rank]
        self.neighbours = tuple(others if neighbours is None else neighbours)
        agree(self._transport, {"collective": self.name, "shape": tuple(buffer.shape)}, 0.0)
        _check_graph(
            [json.loads(n) for n in allgather_bytes(transport, json.dumps(self.neighbours).encode())]
        )
        self._scratch = np.empty(buffer.numel() + 1, np.float32)
        self._stream, self._drawn = key(seed, transport.rank), 0
        self._lane = Lane(self.name)
        self._service = Service(self._transport, ledger, self._shared, self.neighbours, timeout)
        self._open = True

    @property
    def answered(self) -> int:
        """How many requests of others this rank has taken part in."""
        return self._service.answered

    @contextmanager
    def locked(self) -> Iterator[Tensor]:
        """The buffer (n,), for reading and writing; nobody else changes it meanwhile. Be quick."""
        with self._shared.locked() as buffer:
            yield buffer

    def add(self, update: Tensor) -> None:
        """Adds ``update`` (n,) to the buffer."""
        with self._shared.locked() as buffer:
            buffer.add_(update)

    def average_with(self, peer: int | None = None) -> Averaged:
        """Averages with ``peer``, and waits; None: a neighbour drawn at random, all alike.

        The peer need not call anything. Raises :class:`TransportTimeout` naming a peer that does not answer,
        :class:`TransportError` for a peer that is no neighbour and inside :meth:`locked`.
        """
        self._shared.lock.refuse_holder()
        chosen = self._chosen(peer)
        return self._lane.run(lambda: self._ask(chosen))

    def start(self, peer: int | None = None) -> Running[Averaged]:
        """Begins to average; the training goes on meanwhile. Several are made one after the other."""
        chosen = self._chosen(peer)
        return self._lane.submit(lambda: self._ask(chosen))

    def _chosen(self, peer: int | None) -> int | None:
        self._service.check()
        if not self._open:
            raise TransportError("pairwise averaging: closed; make a new one")
        if peer is None:
            return self._draw() if self.neighbours else None
        check_rank(peer, self._transport.size, "peer")
        if peer not in self.neighbours:
            raise TransportError(
                f"pairwise averaging: rank {peer} is no neighbour of rank {self._transport.rank}, "
                f"which has {list(self.neighbours)}"
            )
        return peer

    def _draw(self) -> int:
        place = below(len(self.neighbours), self._stream, np.array([self._drawn]), 1)
        self._drawn += 1
        return self.neighbours[int(place[0, 0])]

    def _ask(self, peer: int | None) -> Averaged:
        if peer is None:
            return Averaged(None)
        values = self._scratch[1:]
        with self._shared.locked() as buffer:
            torch.from_numpy(values).copy_(buffer)
            self._shared.asking = sound = all_finite(values)
        if not sound:
            return Averaged(peer, self._transport.rank)
        self._exchange(peer)
        with self._shared.locked() as buffer:
            self._shared.asking = False
            if not self._scratch[0]:
                return Averaged(peer, peer)
            buffer.sub_(torch.from_numpy(values).to(buffer.device))
        return Averaged(peer)

    def _exchange(self, peer: int) -> None:
        """Sends the copy in the scratch memory; the answer takes its place."""
        under_way: list[Request] = []
        what = f"rank {self._transport.rank}: averaging with rank {peer}"
        with kept_if_it_fails(self._scratch, under_way):
            under_way.append(self._transport.isend(ASK, peer, HEADER))
            under_way.append(self._transport.isend(self._scratch[1:], peer, VALUES))
            settle(under_way, what, self._timeout)
            self._ledger.add("gossip", _ITEM * (len(self._scratch) - 1))
            self._ledger.add("headers", REQUEST)
            under_way.append(self._transport.irecv(self._scratch, peer, ANSWER))
            settle(under_way, what, self._timeout)

    def close(self, timeout: float | None = None) -> None:
        """Answers until every neighbour has called it too, then frees what it holds (collective).

        ``timeout`` in seconds: raises :class:`TransportTimeout` naming those that have not; None: no limit.
        Calling it again does nothing.
        """
        if not self._open:
            return
        self._open = False
        self._lane.close()
        self._service.finish(timeout)
        self._transport.close()


def _check_graph(everyone: Sequence[Sequence[int]]) -> None:
    """The same refusal on every rank."""
    for rank, theirs in enumerate(everyone):
        if len(set(theirs)) < len(theirs) or not set(theirs) <= set(range(len(everyone))) - {rank}:
            raise TransportError(
                f"pairwise averaging: neighbours {theirs} of rank {rank}; "
                f"other ranks of 0 to {len(everyone) - 1} expected, once each"
            )
        if strangers := [other for other in theirs if rank not in everyone[other]]:
            raise TransportError(
                f"pairwise averaging: rank {strangers} is a neighbour of rank {rank}, but not the other way "
                "round; give an undirected graph"
            )
