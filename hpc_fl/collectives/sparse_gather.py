"""Every rank sends what it brings to every other one, and all add it up: for few ranks.

A rank sends 8k (P-1) bytes, less what the coding of the indices saves.
"""

from __future__ import annotations

from typing import ClassVar, Final

from hpc_fl.collectives.elements import Elements, added, sparse_size, sum_is_finite
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.messages import wait_for
from hpc_fl.collectives.sparse_scheme import TOUCH, Load, Scheme, Total, too_large

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

    def total(self, mine: Elements, load: Load) -> Total:
        post, whole = self._post, Piece(0, load.n)
        arrivals = {
            source: post.expect(source, load.n, load.bound(load.n, [source]))
            for source in post.others()
            if load.counts[source]
        }
        sends = post.send(mine, post.others()) if load.counts[post.rank] else []
        parts = []
        for source in range(post.size):
            part = mine if source == post.rank else None
            if source in arrivals:
                part = post.receive(arrivals[source], mine.values)
            if part is not None and len(part):
                parts.append(part)
        wait_for(sends)
        if not sum_is_finite(parts):
            raise too_large()
        if parts and (load.keep is not None or load.number % COUNT_EVERY == 0):
            union = added(parts)
            kept = union if load.keep is None else union.largest(load.keep)
            return Total([(whole, [kept])], len(union))
        return Total([(whole, parts)])
