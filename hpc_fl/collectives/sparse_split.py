"""Sparse reduce-scatter and allgather: every rank adds up one part of the buffer, and sends the sum to all.

::

    bounds    every ``refresh`` calls: the means of the ranks' quantiles of indices
    split     a rank cuts what it brings at the bounds of the parts, and sends each owner its own
    merge     an owner adds up what came, two neighbouring ranks' at a time
    spread    the sums, dense where the union is, go to everybody

A rank sends (P-1)/P * (8k + 8K) bytes, K being the size of the union, where the ranks' elements lie alike;
dense sums make it (P-1)/P * (8k + 4n). Renggli, Ashkboos, Aghagolzadeh, Alistarh, Hoefler: SparCML, SC
2019 (SSAR_Split_allgather and its dense end). The bounds are those of Li, Hoefler: Ok-Topk, PPoPP 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np

from hpc_fl.collectives.elements import Elements, added, sparse_size
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.messages import Arrival, progress, wait_for
from hpc_fl.collectives.sparse_largest import ROUNDS, Largest, gathered
from hpc_fl.collectives.sparse_scheme import (
    TOUCH,
    Load,
    Post,
    Put,
    Scheme,
    equal_parts,
    pieces_for,
    too_large,
)
from hpc_fl.comm.transport import Request

REFRESH: Final = 32
"""Calls for which bounds are used: where elements lie changes slowly."""


def split_bytes(k: int, union: int, n: int, ranks: int) -> int:
    """The formula: (P-1)/P * (8k + 8K), with 4n for 8K where that is less (rounded up)."""
    return -(-(ranks - 1) * (8 * k + min(8 * union, 4 * n)) // ranks)


@dataclass(frozen=True)
class Scattering:
    """Elements on their way to the owners of their pieces: the ``own`` ones, and what is under way."""

    own: Elements
    arrivals: Mapping[int, Arrival]
    sends: list[Request]


class Split(Scheme):
    """The scheme above. Where only the largest of the sum are wanted, owners send these."""

    name: ClassVar[str] = "split"

    def __init__(self, post: Post, refresh: int = REFRESH) -> None:
        super().__init__(post)
        self._largest, self._refresh = Largest(post), refresh
        self._bounds: list[int] = []
        self._n = -1

    def agreed(self) -> list[float]:
        """What later calls build upon, the same on every rank: threshold, -1 for none, n, bounds."""
        threshold = -1 if self._largest.threshold is None else self._largest.threshold
        return [threshold, self._n, *self._bounds]

    def restore(self, agreed: Sequence[float]) -> None:
        """Takes over :meth:`agreed`, or forgets it where it is not of a world of this size."""
        threshold, n, *bounds = [int(number) for number in agreed] or [-1, -1]
        fits = len(bounds) == self._post.size - 1
        self._n, self._bounds = (n, bounds) if fits else (-1, [])
        self._largest.threshold = threshold if fits and threshold >= 0 else None

    @staticmethod
    def seconds(load: Load, link: Link) -> float:
        others, union = load.ranks - 1, load.union(load.ranks)
        spread = union if load.keep is None else min(union, load.keep)
        nbytes = sparse_size(load.most, load.n) + sparse_size(spread, load.n)
        rounds = 2 * others + (0 if load.keep is None else ROUNDS * load.ranks.bit_length())
        touched = load.most * load.ranks.bit_length() / load.ranks + spread
        return link.seconds(rounds, others * nbytes / load.ranks) + TOUCH * touched

    def total(self, mine: Elements, load: Load, put: Put) -> int:
        shards = self._shards(mine, load)
        if load.keep is not None:
            return self._largest_of(mine, shards, load, put, exact=True)
        count = pieces_for(sparse_size(load.most, load.n) // load.ranks)
        # All shards' first pieces, all their second ones, ...
        turns = list(zip(*(equal_parts(one.start, one.stop, count) for one in shards), strict=True))
        scattered = [self._scatter(mine, pieces, load) for pieces in turns]
        spread = [self._expect(pieces, load) for pieces in turns]
        post, sums, sends = self._post, [], []
        for pieces, scattering in zip(turns, scattered, strict=True):
            sums.append(self._merge(scattering))
            sends += post.send(sums[-1], post.others() if len(pieces[post.rank]) else [])
            progress(sends)
        union, sound = 0, True
        for pieces, sum_, arrivals in zip(turns, sums, spread, strict=True):
            found = {rank: post.receive(arrival, mine.values) for rank, arrival in arrivals.items()}
            for rank, part in {post.rank: sum_, **found}.items():
                sound = sound and part is not None
                if part is not None:
                    union += len(part)
                    put(pieces[rank], [part])
        wait_for([*sends, *(send for one in scattered for send in one.sends)])
        if not sound:
            raise too_large()
        return union

    def _anew(self, load: Load) -> bool:
        return load.number % self._refresh == 0

    def _shards(self, mine: Elements, load: Load) -> list[Piece]:
        """Every rank's part of the buffer, with about as many elements as the others'."""
        if self._anew(load) or self._n != load.n:
            self._n, self._bounds = load.n, self._quantiles(mine, load)
        return [Piece(low, high) for low, high in pairwise([0, *self._bounds, load.n])]

    def _quantiles(self, mine: Elements, load: Load) -> list[int]:
        """Where the regions but the first begin: the mean over the ranks that bring any (collective)."""
        told = np.zeros(load.ranks, np.float64)
        if len(mine):
            places = [rank * len(mine) // load.ranks for rank in range(1, load.ranks)]
            told[:] = [*mine.indices[places].tolist(), 1]
        self._post.add_up(told)
        if not told[-1]:
            return [piece.start for piece in equal_parts(0, load.n, load.ranks)[1:]]
        return [int(place / told[-1]) for place in told[:-1].tolist()]

    def _largest_of(
        self, mine: Elements, pieces: Sequence[Piece], load: Load, put: Put, *, exact: bool
    ) -> int:
        """Puts the largest elements of the sum; the union's size."""
        keep = load.most if load.keep is None else load.keep
        scattering = self._scatter(mine, pieces, load)
        chosen, counts, union = self._largest.choose(self._merge(scattering), keep, exact=exact)
        kept = gathered(self._post, chosen.placed(pieces[self._post.rank], load.n), counts, keep)
        wait_for(scattering.sends)
        put(Piece(0, load.n), [kept])
        return union

    def _scatter(self, mine: Elements, pieces: Sequence[Piece], load: Load) -> Scattering:
        """Sends every owner its piece; ``pieces``: one of each rank."""
        post, own = self._post, pieces[self._post.rank]
        arrivals = {
            source: post.expect(source, len(own), load.bound(len(own), [source]))
            for source in post.others()
            if load.counts[source] and len(own)
        }
        cut = mine.cut(pieces)
        sends: list[Request] = []
        for rank in post.others() if load.counts[post.rank] else []:
            sends += post.send(cut[rank], [rank] if len(pieces[rank]) else [])
            progress(sends)
        return Scattering(cut[post.rank], arrivals, sends)

    def _merge(self, scattering: Scattering) -> Elements | None:
        """The sum of what came for the own piece; None where it is not finite."""
        own = scattering.own
        arrivals = scattering.arrivals.items()
        found = {rank: self._post.receive(arrival, own.values) for rank, arrival in arrivals}
        parts = [part for _, part in sorted({self._post.rank: own, **found}.items()) if part is not None]
        sum_ = added(parts)
        return sum_ if len(parts) > len(found) and sum_.is_finite() else None

    def _expect(self, pieces: Sequence[Piece], load: Load) -> dict[int, Arrival]:
        """The owners' sums of their pieces."""
        return {
            rank: self._post.expect(rank, len(pieces[rank]), load.bound(len(pieces[rank]), range(load.ranks)))
            for rank in self._post.others()
            if len(pieces[rank])
        }
