"""Matrices as a product of two thin ones, found by one power iteration from the factors of the last round.

Vogels, Karimireddy, Jaggi: PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization,
NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl import counter
from hpc_fl.backends import Array
from hpc_fl.compression.arrays import as_array, as_tensor
from hpc_fl.compression.base import Base, inputs_of, keep_rest, require_finite
from hpc_fl.compression.codec import Buffer, Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, require, require_values
from hpc_fl.compression.sizes import MAX_META
from hpc_fl.errors import CodecError, NotFiniteError

_STREAM: Final = 0x4C4F5752
_TINY: Final = torch.finfo(torch.float32).tiny
_LIMIT: Final = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Block:
    """Elements ``start``.. of the buffer: a (rows, columns) matrix, or ``rows`` elements sent as they are
    (columns = 0).
    """

    start: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        return self.rows * max(self.columns, 1)

    def of(self, flat: Tensor) -> Tensor:
        """This block of ``flat`` (n,): a view of shape (rows, columns) or (rows,)."""
        piece = flat[self.start : self.start + self.size]
        return piece.view(self.rows, self.columns) if self.columns else piece

    def rank(self, rank: int) -> int:
        """The rank of its factors; 0 where it is sent as it is."""
        return min(rank, self.rows, self.columns)

    def sent(self, rank: int) -> int:
        """Floats sent for it."""
        return self.rank(rank) * (self.rows + self.columns) if self.columns else self.rows


@dataclass(frozen=True)
class LowRank(Base):
    """Factors of rank ``rank`` for each tensor of ``shapes``, in the buffer's order; (m, q, ...) is a matrix
    of m rows. Tensors of one dimension, and those whose factors would be no smaller, are sent as they are.

    Payload: one float32 part, for each block its values, or P (m, r), orthonormal, then Q (q, r); decoded P
    Q^T. Meta: (rank, rows, columns, rows, columns, ...). Kept: the residual and as ``factors`` all Q, where
    the next iteration starts; the first one starts from numbers that ``seed`` and ``round_`` name. Raises
    :class:`CodecError` for a rank below 1 and for shapes that are empty, negative or too many.
    """

    rank: int
    shapes: tuple[tuple[int, ...], ...]
    seed: int = 0
    round_: int = 0

    name: ClassVar[str] = "lowrank"
    id: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise CodecError(f"lowrank: rank = {self.rank} given; 1 or more expected")
        if not self.shapes or any(size < 0 for shape in self.shapes for size in shape):
            raise CodecError("lowrank: give the shapes of the tensors that make up the buffer")
        if 2 * len(self.blocks) > MAX_META:
            raise CodecError(f"lowrank: {len(self.blocks)} blocks, at most {MAX_META // 2} fit a payload")

    @property
    def needs_feedback(self) -> bool:
        return True

    def at(self, round_: int, party_id: int) -> LowRank:
        # Without memory of factors, another subspace each round: what one misses, another finds.
        return replace(self, round_=round_)

    def contraction(self, n: int) -> float | None:
        """In expectation over the seed: what a random subspace of r of the q dimensions of a row holds."""
        self._check(n)
        return min((b.rank(self.rank) / b.columns for b in self.blocks if b.columns), default=1.0)

    def nbytes(self, n: int) -> int:
        self._check(n)
        return 4 * sum(block.sent(self.rank) for block in self.blocks)

    def encode(self, x: Buffer) -> Payload:
        g = as_array(x, "update")
        require_finite(g)
        return self._encoded(g, self.start(g))

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        inputs = inputs_of(x, kept, spare, "residual", "factors")
        old, start = inputs.kept.get("factors"), self.start(inputs.g)
        if old is not None:
            if old.size != start.numel():
                raise CodecError(f"factors: {old.size} floats kept, this codec has {start.numel()}")
            start.copy_(as_tensor(old))
        payload = keep_rest(inputs, self, lambda c: self._encoded(c, start))
        return payload, {"residual": spare, "factors": start}

    def _encoded(self, g: Array, factors: Tensor) -> Payload:
        """The payload of g; ``factors`` are the start, and then where the next round starts."""
        self._check(g.size)
        flat, place = as_tensor(g), 0
        sent = torch.empty(self.nbytes(g.size) // 4, device=flat.device)
        for block, piece in zip(self.blocks, _cut(sent, self.blocks, self.rank), strict=True):
            if not block.columns:
                piece.copy_(block.of(flat))
                continue
            r = block.rank(self.rank)
            size = block.columns * r
            start = factors[place : place + size].view(block.columns, r)
            _iterate(block.of(flat), start, *_factors(piece, block, r))
            place += size
        meta = (self.rank, *(size for block in self.blocks for size in (block.rows, block.columns)))
        payload = Payload(self.id, g.size, (as_array(sent),), meta)
        if not _representable(sent, self.blocks, self.rank):
            raise NotFiniteError("the update is too close to the limit of float32 for its factors")
        return payload

    def start(self, like: Array) -> Tensor:
        """All Q of the first round, on the device of ``like``: the same on every rank."""
        later = (self.round_,) if self.round_ else ()
        drawn = [
            counter.normal(
                counter.key(self.seed, _STREAM, index, *later), np.arange(b.columns), b.rank(self.rank)
            ).reshape(-1)
            for index, b in enumerate(self.blocks)
            if b.columns
        ]
        start = np.concatenate(drawn) if drawn else np.empty(0, np.float32)
        return torch.from_numpy(start).to(as_tensor(like[:0]).device)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """What the buffer is made of, in its order."""
        blocks: list[Block] = []
        start = 0
        for shape in self.shapes:
            rows, columns = (shape[0], prod(shape[1:])) if len(shape) > 1 else (prod(shape), 0)
            block = Block(start, rows, columns)
            if block.sent(self.rank) >= block.size:
                block = Block(start, block.size, 0)
            if not block.columns and blocks and not blocks[-1].columns:
                block = Block(blocks[-1].start, blocks.pop().rows + block.rows, 0)
            blocks += [block] if block.rows else []
            start += prod(shape)
        return tuple(blocks)

    def _check(self, n: int) -> None:
        size = sum(map(prod, self.shapes))
        if size != n:
            raise CodecError(f"lowrank: the shapes have {size} elements, the buffer has {n}")

    @staticmethod
    def read(payload: Payload, like: Array) -> Reading:
        rank, *sizes = payload.meta or (0,)
        sound = rank > 0 and len(sizes) % 2 == 0 and all(rows > 0 for rows in sizes[::2])
        require(sound, payload, "rank, then rows and columns of each block expected as meta")
        blocks = tuple(_blocks_of(sizes))
        require(sum(block.size for block in blocks) == payload.n, payload, "blocks do not make up the buffer")
        (part,) = parts_of(payload, like, ("float32", sum(block.sent(rank) for block in blocks)))
        require_values(part, payload)
        sent = as_tensor(part)
        require(_representable(sent, blocks, rank), payload, "factors are too large")

        def add(weight: float, out: Array) -> None:
            flat = as_tensor(out)
            for block, piece in zip(blocks, _cut(sent, blocks, rank), strict=True):
                if block.columns:
                    left, right = _factors(piece, block, block.rank(rank))
                    block.of(flat).addmm_(left, right.t(), alpha=weight)
                else:
                    block.of(flat).add_(piece, alpha=weight)

        return Reading(add)


def _iterate(matrix: Tensor, start: Tensor, left: Tensor, right: Tensor) -> None:
    """left = orthonormal basis of matrix @ start; right = matrix^T @ left; start = right, to scale.

    Scaled, so that neither large nor tiny updates leave the range of float32 over the rounds. A matrix of
    zeros leaves ``start`` as it was: factors of 0 would be a poor start for what comes next.
    """
    image = matrix @ start
    if not image.isfinite().all():
        raise NotFiniteError("the update is too close to the limit of float32 for its factors")
    left.copy_(orthonormal(image))
    torch.mm(matrix.t(), left, out=right)
    start_from(right, start)


def orthonormal(image: Tensor) -> Tensor:
    """An orthonormal basis (m, r) of the columns of ``image`` (m, r), whatever their scale."""
    basis: Tensor = torch.linalg.qr(image / image.abs().max().clamp_min(_TINY)).Q
    return basis


def start_from(right: Tensor, start: Tensor) -> None:
    """start = right, to scale; as it was where ``right`` is 0."""
    top = right.abs().max()
    start.copy_(torch.where(top > 0, right / top.clamp_min(_TINY), start))


def _cut(sent: Tensor, blocks: Sequence[Block], rank: int) -> list[Tensor]:
    """Each block's part of what is sent."""
    stops = accumulate(block.sent(rank) for block in blocks)
    return [sent[stop - block.sent(rank) : stop] for block, stop in zip(blocks, stops, strict=True)]


def _factors(piece: Tensor, block: Block, r: int) -> tuple[Tensor, Tensor]:
    """P (rows, r) and Q (columns, r) of a block's part."""
    cut = block.rows * r
    return piece[:cut].view(block.rows, r), piece[cut:].view(block.columns, r)


def _blocks_of(sizes: Sequence[int]) -> Iterator[Block]:
    start = 0
    for rows, columns in zip(sizes[::2], sizes[1::2], strict=True):
        block = Block(start, rows, columns)
        start += block.size
        yield block


def _representable(sent: Tensor, blocks: Sequence[Block], rank: int) -> bool:
    """Whether no product of factors can leave the range of float32."""
    for block, piece in zip(blocks, _cut(sent, blocks, rank), strict=True):
        r = block.rank(rank)
        if block.columns:
            left, right = (float(factor.abs().max()) for factor in _factors(piece, block, r))
            if not left * right * r < _LIMIT:
                return False
    return True
