"""Sums and copies between the ranks of one machine: through memory that they share, or by messages.

A buffer is cut into slices; the first ranks of the machine own one each. First every owner gets the machine's
sum of its slice (:meth:`Node.gather`); in the end every rank gets every slice (:meth:`Node.spread`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np

from hpc_fl.collectives.algorithm import TAG, Floats, kept_if_it_fails, length, settle
from hpc_fl.collectives.shared_memory import open_shared
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport

_PIECE: Final = 1 << 17
"""Elements of a slice that go through the shared memory at once: 512 KB. They stay in the cache, and with
more ranks than cores a barrier takes as long as it takes to copy them.
"""

_SHARED: Final = 8 << 20
"""Elements of a machine's shared memory at most, 32 MB: with many ranks the pieces are smaller."""


class Node(Protocol):
    """The ranks of one machine. Every one of them must make the same calls; slice i is rank i's."""

    def gather(self, array: Floats, slices: Sequence[slice]) -> int:
        """Adds to each slice, in place on its owner, what the other ranks have there.

        Returns the bytes that this rank sent. What is in the slices of others is left alone.
        """
        ...

    def spread(self, array: Floats, slices: Sequence[slice]) -> int:
        """Copies each slice from its owner to all others. Returns the bytes that this rank sent."""
        ...

    def close(self) -> None:
        """Releases what it holds."""
        ...


def host_names(transport: Transport) -> list[str]:
    """Every rank's machine, by rank. Every rank must call it."""
    return [name.decode() for name in allgather_bytes(transport, os.uname().nodename.encode())]


def numbered(hosts: Sequence[str]) -> list[int]:
    """For each rank the number of its machine: the first rank there."""
    return [hosts.index(host) for host in hosts]


def node_of(transport: Transport) -> Node:
    """For the ranks of one machine, which ``transport`` holds and no others: through shared memory where all
    of them can open it, else by messages. Every rank must call it; ``transport`` is closed with the node.
    """
    memory = open_shared(transport, SharedNode.nbytes(transport.size))
    return MessageNode(transport) if memory is None else SharedNode(transport, memory)


class MessageNode:
    """By messages."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def gather(self, array: Floats, slices: Sequence[slice]) -> int:
        transport, rank = self._transport, self._transport.rank
        leave = [(i, array[s]) for i, s in enumerate(slices) if i != rank]
        sends = [transport.isend(part, i, TAG) for i, part in leave]
        with kept_if_it_fails(sends):
            if rank < len(slices):
                mine = array[slices[rank]]
                theirs = np.empty_like(mine)
                for other in (r for r in range(transport.size) if r != rank):
                    transport.recv(theirs, other, TAG)
                    np.add(mine, theirs, out=mine)
            settle(*sends)
        return sum(part.nbytes for _, part in leave)

    def spread(self, array: Floats, slices: Sequence[slice]) -> int:
        transport, rank = self._transport, self._transport.rank
        mine = array[slices[rank]] if rank < len(slices) else array[:0]
        others = [r for r in range(transport.size) if r != rank and rank < len(slices)]
        receives = [transport.irecv(array[s], i, TAG) for i, s in enumerate(slices) if i != rank]
        sends = [transport.isend(mine, r, TAG) for r in others]
        with kept_if_it_fails(receives, sends):
            settle(*receives, *sends)
        return mine.nbytes * len(others)

    def close(self) -> None:
        self._transport.close()


class SharedNode:
    """Through ``memory`` of :meth:`nbytes` bytes that all ranks read, each writing its own part.

    It has two halves, for pieces in turn. Between writing a piece and reading it is a barrier. Who is past
    that has read the piece before, so that its half may be written again: one barrier a piece is enough.
    """

    def __init__(self, transport: Transport, memory: Floats) -> None:
        self._transport = transport
        self._halves = memory.reshape(2, transport.size, -1)
        self._turn = 0

    @staticmethod
    def nbytes(ranks: int) -> int:
        """Size of the memory of so many ranks."""
        return 2 * 4 * ranks * max(ranks, min(ranks * _PIECE, _SHARED // (2 * ranks)))

    def gather(self, array: Floats, slices: Sequence[slice]) -> int:
        rank, width = self._transport.rank, self._halves.shape[2] // len(slices)
        for pieces in _pieces(slices, width):
            half = self._next_half()
            for i, (piece, count) in enumerate(pieces):
                if i != rank:
                    half[rank, i * width : i * width + count] = array[piece]
            self._transport.barrier()
            if rank < len(slices):
                piece, count = pieces[rank]
                mine = array[piece]
                for other in (r for r in range(len(half)) if r != rank):
                    np.add(mine, half[other, rank * width : rank * width + count], out=mine)
        return 0

    def spread(self, array: Floats, slices: Sequence[slice]) -> int:
        rank = self._transport.rank
        for pieces in _pieces(slices, self._halves.shape[2]):
            half = self._next_half()
            if rank < len(slices):
                piece, count = pieces[rank]
                half[rank, :count] = array[piece]
            self._transport.barrier()
            for i, (piece, count) in enumerate(pieces):
                if i != rank:
                    array[piece] = half[i, :count]
        return 0

    def _next_half(self) -> Floats:
        """(ranks, elements), which nobody reads any more."""
        self._turn ^= 1
        half: Floats = self._halves[self._turn]
        return half

    def close(self) -> None:
        self._halves = self._halves[:0]
        self._transport.close()


def _pieces(slices: Sequence[slice], most: int) -> Iterator[list[tuple[slice, int]]]:
    """Consecutive pieces of ``most`` elements of all slices at once: where each is, and its length."""
    for start in range(0, max(length(s) for s in slices), most):
        counts = [max(0, min(most, length(s) - start)) for s in slices]
        yield [
            (slice(s.start + start, s.start + start + count), count)
            for s, count in zip(slices, counts, strict=True)
        ]
