"""Every rank sends what it brings to every other one, and all add it up: for few ranks.

A rank sends 8k (P-1) bytes, less what the coding of the indices saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from hpc_fl.collectives.elements import Elements, added, joined, sparse_size, sum_is_finite
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.messages import Arrival, progress, wait_for
from hpc_fl.collectives.sparse_scheme import (
    TOUCH,
    Load,
    Put,
    Scheme,
    equal_parts,
    pieces_for,
    sound,
    too_large,
)

COUNT_EVERY: Final = 32
"""Calls after which the union is counted again: how large it is decides which scheme costs least."""


def gather_bytes(k: int, ranks: int) -> int:
    """The formula: 8k (P-1) for int32 indices; what is sent is never more."""
    return 8 * k * (ranks - 1)


class Gather(Scheme):
    """The scheme above, in rank order."""

    name: ClassVar[str] = "gather"

    @staticmethod
    def seconds(load: Load, link: Link) -> float:
        others = load.ranks - 1
        return link.seconds(others, others * sparse_size(load.most, load.n)) + TOUCH * load.ranks * load.most

    def total(self, mine: Elements, load: Load, put: Put) -> int | None:
        post = self._post
        pieces = equal_parts(0, load.n, pieces_for(sparse_size(load.most, load.n)))
        arrivals = [
            {
                source: post.expect(source, len(piece), load.bound(len(piece), [source]))
                for source in post.others()
                if load.counts[source]
            }
            for piece in pieces
        ]
        cut, sends = mine.cut(pieces), []
        for part in cut if load.counts[post.rank] else []:
            sends += post.send(part, post.others())
            progress(sends)
        counts = load.keep is not None or load.number % COUNT_EVERY == 0
        sums: list[Elements] = []
        finite, union = True, 0
        for piece, own, coming in zip(pieces, cut, arrivals, strict=True):
            parts = self._parts(own, coming, load)
            finite = finite and sum_is_finite(parts)
            if counts:
                parts = [added(parts)]
                union += len(parts[0])
                sums.append(parts[0].placed(piece, load.n))
            if finite and load.keep is None:
                put(piece, parts)
        wait_for(sends)
        if not finite:
            raise too_large()
        if load.keep is not None:
            put(Piece(0, load.n), [joined(sums).largest(load.keep)])
        return union if counts else None

    def _parts(self, own: Elements, coming: Mapping[int, Arrival], load: Load) -> list[Elements]:
        """A piece's elements of the ranks that bring any, by rank: the same list everywhere, as the order in
        which it is added up depends on it.
        """
        found = {source: self._post.receive(arrival, own.values) for source, arrival in coming.items()}
        found[self._post.rank] = own
        return sound([found[rank] for rank, count in enumerate(load.counts) if count])
