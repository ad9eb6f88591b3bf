"""Recursive doubling: pairs of ranks exchange the sums that they have so far, ever further apart.

::

    P = 6     0 1 2 3 4 5      4 and 5 give what they bring to 0 and 1
              0-1 2-3          each has the sum of two of 0 to 3, then of all four
              0-2 1-3
              0 1 2 3 4 5      0 and 1 give the result to 4 and 5

log2(P) messages, the fewest of all schemes: for small k. The sums fill up on the way, until they travel as
dense buffers. Renggli, Ashkboos, Aghagolzadeh, Alistarh, Hoefler: SparCML: High-Performance Sparse
Communication for Machine Learning, SC 2019 (SSAR_Recursive_double).
"""

from __future__ import annotations

from typing import ClassVar

from hpc_fl.collectives.elements import Elements, sparse_size
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.messages import Arrival, wait_for
from hpc_fl.collectives.sparse_scheme import TOUCH, Load, Put, Scheme, too_large


def sparse_doubling_bytes(k: int, union: int, n: int, ranks: int) -> int:
    """A bound for a rank that brings k of n, as all do: a message of min(2^s k, union) in each step s.

    Of P that is no power of two, the ranks that were folded into get one message more to send.
    """
    core = 1 << (ranks.bit_length() - 1)
    fold = 0 if core == ranks else 1
    steps = [min(8 * min((1 + fold) * k << step, union), 4 * n) for step in range(core.bit_length() - 1)]
    return sum(steps) + fold * min(8 * union, 4 * n)


class Doubling(Scheme):
    """The scheme above. Both ranks of a pair add the same two sums: a + b has the bits of b + a."""

    name: ClassVar[str] = "doubling"

    @staticmethod
    def seconds(load: Load, link: Link) -> float:
        steps = load.ranks.bit_length() - 1
        unions = [load.union(1 << step) for step in range(steps)]
        if 1 << steps != load.ranks:
            unions += [load.most, load.union(load.ranks)]
        nbytes = sum(sparse_size(union, load.n) for union in unions)
        # A step begins when the one before has come: its latency is not hidden by another message's.
        return link.seconds(len(unions), nbytes) + TOUCH * (2 * sum(unions) + load.union(load.ranks))

    def total(self, mine: Elements, load: Load, put: Put) -> int:
        post = self._post
        core = 1 << (post.size.bit_length() - 1)
        extra = post.rank + core if post.rank + core < post.size else None
        sum_: Elements | None = Elements.made(mine.n, mine.indices, mine.values)
        if post.rank >= core:
            wait_for(post.send(sum_, [post.rank - core]))
            sum_ = self._from(post.rank - core, mine, load, range(post.size))
        else:
            if extra is not None:
                sum_ = self._plus(sum_, self._from(extra, mine, load, [extra]))
            sum_ = self._double(sum_, mine, load, core)
            wait_for(post.send(sum_, [extra] if extra is not None else []))
        if sum_ is None:
            raise too_large()
        kept = sum_ if load.keep is None else sum_.largest(load.keep)
        put(Piece(0, load.n), [kept])
        return len(sum_)

    def _double(self, sum_: Elements | None, like: Elements, load: Load, core: int) -> Elements | None:
        step = 1
        while step < core:
            partner = self._post.rank ^ step
            first = partner & ~(step - 1)
            group = [rank for base in range(first, first + step) for rank in (base, base + core)]
            arrival = self._expect(partner, load, [rank for rank in group if rank < load.ranks])
            sends = self._post.send(sum_, [partner])
            sum_ = self._plus(sum_, self._post.receive(arrival, like.values))
            wait_for(sends)
            step *= 2
        return sum_

    def _plus(self, one: Elements | None, other: Elements | None) -> Elements | None:
        """The sum; None where it is not finite, as then all that it becomes part of."""
        if one is None or other is None:
            return None
        sum_ = one.plus(other)
        return sum_ if sum_.is_finite() else None

    def _expect(self, source: int, load: Load, group: list[int] | range) -> Arrival:
        return self._post.expect(source, load.n, load.bound(load.n, group))

    def _from(self, source: int, like: Elements, load: Load, group: list[int] | range) -> Elements | None:
        return self._post.receive(self._expect(source, load, group), like.values)
