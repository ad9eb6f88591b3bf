"""Regions of as many elements each, and a threshold that is used again: the k largest of the sum, about.

::

    split       as in :mod:`hpc_fl.collectives.sparse_split`, to every owner about k elements
    threshold   every ``refresh`` calls the k-th largest magnitude of the sum, exactly; in between the last
                one, as long as k/2 to 2k elements pass it
    spread      what passed, dealt out again where owners have much more than others

A rank sends at most 24k (P-1)/P bytes where the ranks' elements lie alike, and the numbers to agree on: it
does not grow with the ranks. What does not pass goes back to the residuals of the ranks that brought it.
Li, Hoefler: Near-Optimal Sparse Allreduce for Distributed Deep Learning (Ok-Topk), PPoPP 2022.
"""

from __future__ import annotations

from typing import ClassVar

from hpc_fl.collectives.elements import Elements, sparse_size
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.sparse_scheme import TOUCH, Load, Put
from hpc_fl.collectives.sparse_split import Split


def regions_bytes(k: int, ranks: int) -> int:
    """The formula: 24k (P-1)/P, rounded up; the lower bound for any scheme is a third of it."""
    return -(-24 * k * (ranks - 1) // ranks)


class Regions(Split):
    """The scheme above. With :attr:`Load.keep` the threshold is computed anew each time: exactly k pass."""

    name: ClassVar[str] = "regions"

    @staticmethod
    def seconds(load: Load, link: Link) -> float:
        others = load.ranks - 1
        nbytes = 2 * others * sparse_size(load.most, load.n) / load.ranks
        return link.seconds(2 * others, nbytes) + TOUCH * load.most * (load.ranks.bit_length() + 1)

    def total(self, mine: Elements, load: Load, put: Put) -> int:
        pieces = self._shards(mine, load)
        exact = self._anew(load) or load.keep is not None
        return self._largest_of(mine, pieces, load, put, exact=exact)
