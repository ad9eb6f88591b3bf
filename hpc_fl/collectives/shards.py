"""How a buffer is divided among the ranks, and each rank's part into pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hpc_fl.collectives.memory import Piece
from hpc_fl.compression.base import Base

PIECE: Final = 1 << 20
"""Elements encoded and sent at once: large enough for the memory's speed, small enough to overlap."""
_PIECES: Final = 16
_ALIGNED: Final = 8
"""Shards and pieces begin at whole bytes of packed bits."""


@dataclass(frozen=True)
class Shards:
    """``of[rank]``: the pieces of the shard that this rank owns; none where n is too small for all."""

    of: tuple[tuple[Piece, ...], ...]

    @classmethod
    def cut(cls, n: int, ranks: int) -> Shards:
        """Shards of ceil(n / 8P) * 8 elements, the last ones shorter or empty; pieces of about PIECE."""
        width = -(-n // (_ALIGNED * ranks)) * _ALIGNED
        count = min(max(1, width // PIECE), _PIECES)
        step = max(_ALIGNED, -(-width // (_ALIGNED * count)) * _ALIGNED)
        bounds = ((min(rank * width, n), min((rank + 1) * width, n)) for rank in range(ranks))
        return cls(
            tuple(
                tuple(Piece(at, min(at + step, stop)) for at in range(start, stop, step))
                for start, stop in bounds
            )
        )

    def start(self, rank: int) -> int:
        """Where a rank's shard begins; 0 for an empty one."""
        return self.of[rank][0].start if self.of[rank] else 0

    def length(self, rank: int) -> int:
        """How many elements a rank owns."""
        return sum(map(len, self.of[rank]))

    def turns(self, first: int) -> list[tuple[int, Piece]]:
        """All pieces with their owners: the first one of each, the second, ...; owners from ``first`` on."""
        ranks = len(self.of)
        return [
            (owner, self.of[owner][index])
            for index in range(max(map(len, self.of), default=0))
            for owner in ((first + step) % ranks for step in range(ranks))
            if index < len(self.of[owner])
        ]


def sharded_bytes(codec: Base, n: int, ranks: int, rank: int) -> int:
    """Payload bytes that ``rank`` sends: the pieces of the others' shards once, each of its own P-1 times.

    Exact where the codec's ``nbytes`` is, else a bound. For the 1-bit codec at most 2 (P-1) (ceil(n / 8P) +
    4 m) with m pieces a shard.
    """
    shards = Shards.cut(n, ranks)
    others = sum(codec.nbytes(len(piece)) for owner, piece in shards.turns(0) if owner != rank)
    return others + (ranks - 1) * sum(codec.nbytes(len(piece)) for piece in shards.of[rank])
