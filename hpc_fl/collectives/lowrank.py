"""PowerSGD: the ranks' matrices have one mean low-rank factorisation, found by two small dense allreduces.

::

    P = sum of share * C_r Q        one allreduce of all matrices' P, and of what is sent as it is
    P = orthonormal basis of P      the same on every rank
    Q = sum of share * C_r^T P      one allreduce of all matrices' Q; the next call starts from it
    result = P Q^T                  kept back here: C_r - P (C_r^T P)^T

Vogels, Karimireddy, Jaggi: PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization,
NeurIPS 2019. Two collectives in one fixed order, whatever the number of matrices.

Factors are held transposed, (r, m) and (r, q): MKL multiplies C^T by a thin P ten times slower than P^T by C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import ClassVar, Final

import torch
from torch import Tensor

from hpc_fl.collectives.compressed import Call
from hpc_fl.collectives.dense import dense_bytes
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.summed import MakeCollective, Summed
from hpc_fl.comm.transport import Transport
from hpc_fl.compression.arrays import as_array
from hpc_fl.compression.base import Base
from hpc_fl.compression.lowrank import Block, LowRank, orthonormal, start_from
from hpc_fl.telemetry.ledger import Ledger

_FACTORS: Final = "factors"
_STRIPE: Final = 1 << 19
"""Elements of a matrix that are corrected and multiplied while they are in the cache."""


def lowrank_bytes(codec: LowRank, n: int, ranks: int) -> int:
    """Bytes that a rank sends: 2 (P-1)/P * 4 r (m + q) for each matrix, in two allreduces."""
    codec.nbytes(n)  # refuses another n
    return dense_bytes(sum(_left(codec)), ranks) + dense_bytes(sum(_right(codec)), ranks)


class LowRankMean(Summed):
    """The reduction above; also keeps ``factors``: where the next iteration starts, the same on all ranks."""

    name: ClassVar[str] = "lowrank"

    @classmethod
    def carries(cls, codec: Base) -> bool:
        return isinstance(codec, LowRank)

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        codec: LowRank,
        *,
        feedback: bool,
        mean: bool = True,
        dense: MakeCollective | None = None,
    ) -> None:
        super().__init__(transport, ledger, codec, feedback=feedback, mean=mean, dense=dense)
        self._shape = codec
        self._start: Tensor | None = None
        self._sent: tuple[list[Tensor], list[Tensor]] | None = None
        """This rank's factors of the last call: what the memory holds is kept back less their product."""

    def _reduce(self, x: Tensor, call: Call) -> tuple[int, ...]:
        rank = self._transport.rank
        self._shape.nbytes(x.numel())  # refuses another n, before anything is sent
        starts = self._starts(x)
        corrected = x if self._memory is None else self._memory.both()[1]
        lefts = _Bucket(_left(self._shape), self._shape, x)
        for index, (start, left) in enumerate(zip(starts, lefts.parts, strict=True)):
            self._project(x, corrected, index, start, left)
        takes_part = call.weights[rank] > 0
        left_out = self._verdict(not takes_part or bool(lefts.flat.isfinite().all()), commit=False)
        enters = takes_part and rank not in left_out
        share = call.shares(left_out)[rank] if enters else 0.0
        lefts.enter(share)
        self._add(lefts.flat)
        rights = _Bucket(_right(self._shape), self._shape, x)
        for block, left, right in zip(self._shape.blocks, lefts.parts, rights.parts, strict=True):
            if block.columns:
                left.copy_(orthonormal(left.t()).t())
                torch.mm(left, block.of(corrected), out=right)
        if self._memory is not None and enters:
            self._memory.commit()
            self._sent = lefts.parts, [right.clone() for right in rights.parts]
        rights.enter(share)
        self._add(rights.flat)
        for block, start, left, right in zip(
            self._shape.blocks, starts, lefts.parts, rights.parts, strict=True
        ):
            if block.columns:
                torch.mm(left.t(), right, out=block.of(x))
                start_from(right, start)
            else:
                block.of(x).copy_(left)
        return left_out

    def _project(self, x: Tensor, corrected: Tensor, index: int, start: Tensor, left: Tensor) -> None:
        """left = C start, for C = x + what was kept back, formed on the way; C itself for what is sent so."""
        block = self._shape.blocks[index]
        for stripe in _stripes(block):
            if self._memory is not None:
                self._correct(x, index, stripe)
            rows = stripe.of(corrected)
            if block.columns:
                first = (stripe.start - block.start) // block.columns
                matrix = rows.view(-1, block.columns)
                torch.mm(start, matrix.t(), out=left[:, first : first + len(matrix)])
            else:
                left[stripe.start - block.start : stripe.stop - block.start] = rows

    def _correct(self, x: Tensor, index: int, stripe: Piece) -> None:
        """A stripe of x + what was kept back, which is formed only now: one pass over it less."""
        assert self._memory is not None
        now, after = self._memory.both()
        if self._sent is None:
            torch.add(stripe.of(x), stripe.of(now), out=stripe.of(after))
            return
        self._form(index, stripe, now, after)
        stripe.of(after).add_(stripe.of(x))

    def _form(self, index: int, stripe: Piece, held: Tensor, out: Tensor) -> None:
        """out = held less what this rank's own factors sent of it; nothing of what was sent as it is."""
        assert self._sent is not None
        block, left, right = self._shape.blocks[index], self._sent[0][index], self._sent[1][index]
        if not block.columns:
            stripe.of(out).zero_()
            return
        first = (stripe.start - block.start) // block.columns
        matrix, target = (stripe.of(one).view(-1, block.columns) for one in (held, out))
        torch.addmm(matrix, left[:, first : first + len(matrix)].t(), right, alpha=-1, out=target)

    def _starts(self, x: Tensor) -> list[Tensor]:
        """Where the iteration of each block starts: views of the factors."""
        if self._start is None:
            self._start = self._shape.start(as_array(x))
            for block, start in zip(
                self._shape.blocks, _cut(self._start, _right(self._shape), self._shape), strict=True
            ):
                if block.columns:  # the codec's are (q, r)
                    start.copy_(start.reshape(block.columns, -1).t().clone())
        self._start = self._start.to(x.device)
        return _cut(self._start, _right(self._shape), self._shape)

    def state(self) -> dict[str, Tensor]:
        """Also ``factors``: where the next iteration starts."""
        if self._sent is not None and self._memory is not None:
            now, _ = self._memory.both()
            for index, block in enumerate(self._shape.blocks):
                for stripe in _stripes(block):
                    self._form(index, stripe, now, now)
            self._sent = None
        return super().state() | ({} if self._start is None else {_FACTORS: self._start})

    def restore(self, *states: Mapping[str, Tensor]) -> None:
        """The factors are those of any of the states: all ranks have the same."""
        super().restore(*states)
        self._sent = None
        found = [state[_FACTORS] for state in states if _FACTORS in state]
        self._start = found[0].clone() if found else None


class _Bucket:
    """One side's factors of all blocks, in one buffer."""

    def __init__(self, sizes: list[int], codec: LowRank, like: Tensor) -> None:
        self.flat = torch.empty(sum(sizes), device=like.device)
        self.parts = _cut(self.flat, sizes, codec)

    def enter(self, share: float) -> None:
        """Times the rank's share; zeros, whatever it holds, where that is 0."""
        if share > 0:
            self.flat.mul_(share)
        else:
            self.flat.zero_()


def _left(codec: LowRank) -> list[int]:
    """Elements of each block's P; of the block itself, where it is sent as it is."""
    return [b.rows * (b.rank(codec.rank) if b.columns else 1) for b in codec.blocks]


def _right(codec: LowRank) -> list[int]:
    """Elements of each block's Q."""
    return [b.columns * b.rank(codec.rank) for b in codec.blocks]


def _cut(flat: Tensor, sizes: list[int], codec: LowRank) -> list[Tensor]:
    """Views of a bucket: (r, rows) or (r, columns) of each block; (rows,) and () of what is sent as it is."""
    starts = accumulate(sizes, initial=0)
    pieces = (flat[start : start + size] for start, size in zip(starts, sizes, strict=False))
    return [
        piece.view(block.rank(codec.rank), -1) if block.columns else piece
        for block, piece in zip(codec.blocks, pieces, strict=True)
    ]


def _stripes(block: Block) -> Iterator[Piece]:
    """A block in pieces of whole rows."""
    row = max(block.columns, 1)
    step = max(1, _STRIPE // row) * row
    stop = block.start + block.size
    return (Piece(at, min(at + step, stop)) for at in range(block.start, stop, step))
