"""Some elements of a buffer, the others being 0: what sparse reductions cut, add up and send."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hpc_fl.backends import Array, backend_of
from hpc_fl.collectives.memory import Piece
from hpc_fl.compression import Identity, Payload, TopK
from hpc_fl.compression.arrays import CHUNK, all_finite, module_of
from hpc_fl.compression.indices import most_bytes
from hpc_fl.compression.reading import parts_of, require_id, require_values
from hpc_fl.compression.sparse import sparse_parts, sparse_payload


def sparse_size(k: int, n: int) -> int:
    """Payload bytes of ``k`` of ``n`` elements, at most: never more than 4n, those of all of them."""
    return min(4 * n, 4 * k + most_bytes(k, n))


@dataclass(frozen=True, eq=False)
class Elements:
    """``values`` (k,) float32 at ``indices`` (k,) int32, ascending, of ``n`` elements."""

    n: int
    indices: Array
    values: Array

    def __len__(self) -> int:
        return int(self.values.size)

    @classmethod
    def made(cls, n: int, indices: Array, values: Array) -> Self:
        """All n elements, zeros among them, where these are so many that all take no more bytes.

        That is from 31/32 n on, as an index then costs a bit of a mask; int32 indices would make it n/2.
        """
        k = indices.size
        if k == n or 4 * n > 4 * k + most_bytes(k, n):
            return cls(n, indices, values)
        module, dense = module_of(values), backend_of(values).empty(n, "float32")
        dense.fill(0)
        dense[indices] = values
        return cls(n, module.arange(n, dtype="int32"), dense)

    @classmethod
    def none(cls, n: int, like: Array) -> Self:
        """No element of n, where ``like`` lies."""
        backend = backend_of(like)
        return cls(n, backend.empty(0, "int32"), backend.empty(0, "float32"))

    @classmethod
    def read(cls, payload: Payload, like: Array) -> Self:
        """The inverse of :meth:`payload`. Raises :class:`WireError` for anything else."""
        if payload.codec == Identity.id and not payload.meta:
            (values,) = parts_of(payload, like, ("float32", payload.n))
            require_values(values, payload)
            return cls(payload.n, module_of(values).arange(payload.n, dtype="int32"), values)
        require_id(payload, TopK.id, TopK.name)
        return cls(payload.n, *sparse_parts(payload, like))

    def payload(self) -> Payload:
        """As a payload of top-k, or of the whole buffer where these are all of its elements."""
        if len(self) == self.n:
            return Payload(Identity.id, self.n, (self.values,))
        return sparse_payload(TopK.id, self.n, self.indices, self.values)

    def scaled(self, share: float) -> Elements:
        """``share`` times as much."""
        return Elements(self.n, self.indices, self.values * np.float32(share))

    def at(self, part: slice) -> Elements:
        """Those from one of the k to another."""
        return Elements(self.n, self.indices[part], self.values[part])

    def cut(self, pieces: Sequence[Piece]) -> list[Elements]:
        """Those in each piece of the buffer, counted from its start."""
        edges = self._edges([bound for piece in pieces for bound in (piece.start, piece.stop)])
        return [
            Elements.made(len(piece), self.indices[low:high] - np.int32(piece.start), self.values[low:high])
            for piece, low, high in zip(pieces, edges[::2], edges[1::2], strict=True)
        ]

    def placed(self, piece: Piece, n: int) -> Elements:
        """As elements of a buffer of ``n`` of which this one is a piece."""
        return Elements(n, self.indices + np.int32(piece.start), self.values)

    def plus(self, other: Elements) -> Elements:
        """The sum of both."""
        if len(self) == self.n or len(other) == self.n:
            dense, rest = (self, other) if len(self) == self.n else (other, self)
            values = dense.values.copy()
            with np.errstate(over="ignore", invalid="ignore"):
                values[rest.indices] += rest.values
            return Elements(self.n, dense.indices, values)
        backend, room = backend_of(self.values), len(self) + len(other)
        indices, values = backend.empty(room, "int32"), backend.empty(room, "float32")
        with np.errstate(over="ignore", invalid="ignore"):
            k = backend.merge_add(self.indices, self.values, other.indices, other.values, indices, values)
        return Elements.made(self.n, indices[:k], values[:k])

    def largest(self, k: int) -> Elements:
        """The ``k`` of largest magnitude, ties by lower index; all where there are no more."""
        if len(self) <= k:
            return self
        backend = backend_of(self.values)
        places, values = backend.empty(k, "int32"), backend.empty(k, "float32")
        backend.add_topk(self.values, None, None, places, values)
        backend.check()
        return Elements(self.n, self.indices[places], values)

    def is_finite(self) -> bool:
        """Whether there is no NaN and no infinity among them."""
        return all_finite(self.values)

    def peak(self) -> float:
        """The largest magnitude, 0 of none."""
        return float(abs(self.values).max()) if len(self) else 0.0

    def add_to(self, out: Array, low: int, high: int) -> None:
        """Adds those from one of the k to another to ``out`` (n,)."""
        backend_of(out).scatter_add(self.indices[low:high], self.values[low:high], 1.0, out)

    def _edges(self, bounds: Sequence[int]) -> list[int]:
        """Where among the indices these bounds lie, which ascend."""
        module = module_of(self.indices)
        edges: list[int] = module.searchsorted(self.indices, module.asarray(bounds, dtype="int32")).tolist()
        return edges


def added(parts: Sequence[Elements]) -> Elements:
    """The sum of at least one, two neighbours at a time: each element moves log2(P) times, not P."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [a.plus(b) for a, b in pairs] + list(parts[len(parts) & ~1 :])
    return parts[0]


def joined(parts: Sequence[Elements]) -> Elements:
    """Elements of one buffer that follow each other, at least one part."""
    module = module_of(parts[0].values)
    indices = module.concatenate([part.indices for part in parts])
    return Elements(parts[0].n, indices, module.concatenate([part.values for part in parts]))


def sum_is_finite(parts: Sequence[Elements]) -> bool:
    """Whether the sum of these, finite themselves, is: mostly told from the largest of each."""
    # Half of the range: rounding on the way must not reach its end.
    safe = sum(part.peak() for part in parts) < float(np.finfo(np.float32).max) / 2
    with np.errstate(over="ignore", invalid="ignore"):
        return safe or not parts or added(parts).is_finite()


def write(parts: Sequence[Elements], out: Array) -> None:
    """out (n,) = the sum of the parts, by a block that stays in the cache: memory is touched once."""
    n = out.size
    if len(parts) == 1 and len(parts[0]) == n:
        out[:] = parts[0].values
        return
    # On a GPU a block is a launch of its own.
    step = CHUNK if isinstance(out, np.ndarray) else max(n, 1)
    starts = range(0, n, step)
    edges = [part._edges([*starts, n]) for part in parts]
    for block, start in enumerate(starts):
        out[start : start + step] = 0
        for part, edge in zip(parts, edges, strict=True):
            if edge[block] < edge[block + 1]:
                part.add_to(out, edge[block], edge[block + 1])


def growth_of(union: int, one: int, ranks: int) -> float:
    """How a union grows: ``union`` = ``one`` * ranks ** growth. 0: all bring the same; 1: no two do."""
    if ranks < 2 or one < 1 or union <= one:
        return 0.0
    return min(1.0, math.log(union / one) / math.log(ranks))
