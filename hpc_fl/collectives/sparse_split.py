"""Sparse reduce-scatter and allgather: every rank adds up one part of the buffer, and sends the sum to all.

::

    split     a rank cuts what it brings at the bounds of the parts, and sends each owner its own
    merge     an owner adds up what came, two neighbouring ranks' at a time
    spread    the sums, dense where the union is, go to everybody

A rank sends (P-1)/P * (8k + 8K) bytes, K being the size of the union, where the elements lie evenly; dense
sums make it (P-1)/P * (8k + 4n) at most. Renggli, Ashkboos, Aghagolzadeh, Alistarh, Hoefler: SparCML, SC
2019 (SSAR_Split_allgather and its dense end).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hpc_fl.backends import Array
from hpc_fl.collectives.elements import Elements, added, sparse_size
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.messages import wait_for
from hpc_fl.collectives.sparse_largest import ROUNDS, Largest, gathered
from hpc_fl.collectives.sparse_scheme import TOUCH, Load, Post, Scheme, Total, too_large
from hpc_fl.comm.transport import Request


def split_bytes(k: int, union: int, n: int, ranks: int) -> int:
    """The formula: (P-1)/P * (8k + 8K), with 4n for 8K where that is less (rounded up)."""
    return -(-(ranks - 1) * (8 * k + min(8 * union, 4 * n)) // ranks)


def equal_parts(n: int, ranks: int) -> list[Piece]:
    """A part for each rank, of n/P elements or one more."""
    return [Piece(rank * n // ranks, (rank + 1) * n // ranks) for rank in range(ranks)]


class Split(Scheme):
    """The scheme above, with parts of equal length. Where only the largest are wanted, owners send these."""

    name: ClassVar[str] = "split"

    def __init__(self, post: Post) -> None:
        super().__init__(post)
        self._largest = Largest(post)

    def agreed(self) -> list[float]:
        """What later calls build upon; the same on every rank."""
        return []

    def restore(self, agreed: Sequence[float]) -> None:
        """Takes over :meth:`agreed`, or forgets it where it is not of a world of this size."""

    @staticmethod
    def seconds(load: Load, link: Link) -> float:
        others, union = load.ranks - 1, load.union(load.ranks)
        spread = union if load.keep is None else min(union, load.keep)
        nbytes = sparse_size(load.most, load.n) + sparse_size(spread, load.n)
        rounds = 2 * others + (0 if load.keep is None else ROUNDS * load.ranks.bit_length())
        touched = load.most * load.ranks.bit_length() / load.ranks + spread
        return link.seconds(rounds, others * nbytes / load.ranks) + TOUCH * touched

    def total(self, mine: Elements, load: Load) -> Total:
        pieces = equal_parts(load.n, load.ranks)
        sum_, sends = self._scatter(mine, pieces, load)
        if load.keep is not None:
            return self._chosen(sum_, pieces, sends, load, exact=True)
        spread = self._spread(sum_, pieces, load, mine.values)
        wait_for(sends)
        return Total([(piece, [part]) for piece, part in spread], sum(len(part) for _, part in spread))

    def _chosen(
        self,
        sum_: Elements | None,
        pieces: Sequence[Piece],
        sends: Sequence[Request],
        load: Load,
        *,
        exact: bool,
    ) -> Total:
        """The largest of the sums, brought to all."""
        keep = load.most if load.keep is None else load.keep
        chosen, counts, union = self._largest.choose(sum_, keep, exact=exact)
        kept = gathered(self._post, chosen.placed(pieces[self._post.rank], load.n), counts, keep)
        wait_for(sends)
        return Total([(Piece(0, load.n), [kept])], union)

    def _scatter(
        self, mine: Elements, pieces: Sequence[Piece], load: Load
    ) -> tuple[Elements | None, list[Request]]:
        """The sum of what came for the own part, None where it is not finite, and what is under way."""
        post, own = self._post, pieces[self._post.rank]
        sources = [rank for rank in range(post.size) if load.counts[rank] and len(own)]
        arrivals = {
            source: post.expect(source, len(own), load.bound(len(own), [source]))
            for source in sources
            if source != post.rank
        }
        cut, sends = mine.cut(pieces), []
        if load.counts[post.rank]:
            for rank in post.others():
                sends += post.send(cut[rank], [rank] if len(pieces[rank]) else [])
        parts: list[Elements] = []
        for source in sources:
            part = cut[source] if source == post.rank else post.receive(arrivals[source], mine.values)
            if part is None:
                return None, sends
            parts.append(part)
        sum_ = added(parts) if parts else Elements.none(len(own), mine.values)
        return sum_ if sum_.is_finite() else None, sends

    def _spread(
        self, sum_: Elements | None, pieces: Sequence[Piece], load: Load, like: Array
    ) -> list[tuple[Piece, Elements]]:
        """All owners' sums with their parts."""
        post, everyone = self._post, range(load.ranks)
        owners = [rank for rank in post.others() if len(pieces[rank])]
        arrivals = {
            owner: post.expect(owner, len(pieces[owner]), load.bound(len(pieces[owner]), everyone))
            for owner in owners
        }
        sends = post.send(sum_, post.others() if len(pieces[post.rank]) else [])
        found = {post.rank: sum_} | {owner: post.receive(arrivals[owner], like) for owner in owners}
        wait_for(sends)
        parts = {owner: part for owner, part in found.items() if part is not None}
        if len(parts) < len(found):
            raise too_large()
        return [
            (piece, parts[rank] if rank in parts else Elements.none(len(piece), like))
            for rank, piece in enumerate(pieces)
        ]
