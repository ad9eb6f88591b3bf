"""Regions of as many elements each, and a threshold that is used again: the k largest of the sum, about.

::

    bounds      every ``refresh`` calls: the means of the ranks' quantiles of indices
    split       as in :mod:`hpc_fl.collectives.sparse_split`, at these bounds: to every owner about k elements
    threshold   every ``refresh`` calls the k-th largest magnitude of the sum, exactly; in between the last
                one, as long as k/2 to 2k elements pass it
    spread      what passed, dealt out again where owners have much more than others

A rank sends at most 24k (P-1)/P bytes where the ranks' elements lie alike, and the numbers to agree on: it
does not grow with the ranks. What does not pass goes back to the residuals of the ranks that brought it.
Li, Hoefler: Near-Optimal Sparse Allreduce for Distributed Deep Learning (Ok-Topk), PPoPP 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np

from hpc_fl.collectives.elements import Elements, sparse_size
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.sparse_scheme import TOUCH, Load, Post, Total
from hpc_fl.collectives.sparse_split import Split, equal_parts

REFRESH: Final = 32
"""Calls for which bounds and threshold are used, as in the paper."""


def regions_bytes(k: int, ranks: int) -> int:
    """The formula: 24k (P-1)/P, rounded up; the lower bound for any scheme is a third of it."""
    return -(-24 * k * (ranks - 1) // ranks)


class Regions(Split):
    """The scheme above. With :attr:`Load.keep` the threshold is computed anew each time: exactly k pass."""

    name: ClassVar[str] = "regions"

    def __init__(self, post: Post, refresh: int = REFRESH) -> None:
        super().__init__(post)
        self._refresh = refresh
        self._bounds: list[int] | None = None

    @staticmethod
    def seconds(load: Load, link: Link) -> float:
        others = load.ranks - 1
        nbytes = 2 * others * sparse_size(load.most, load.n) / load.ranks
        return link.seconds(2 * others, nbytes) + TOUCH * load.most * (load.ranks.bit_length() + 1)

    def agreed(self) -> list[float]:
        """The threshold, -1 for none, and the bounds, where there are any."""
        threshold = -1 if self._largest.threshold is None else self._largest.threshold
        return [] if self._bounds is None else [threshold, *self._bounds]

    def restore(self, agreed: Sequence[float]) -> None:
        threshold, *bounds = [int(number) for number in agreed] or [-1]
        fits = len(bounds) == self._post.size - 1
        self._bounds = bounds if fits else None
        self._largest.threshold = threshold if fits and threshold >= 0 else None

    def total(self, mine: Elements, load: Load) -> Total:
        anew = load.number % self._refresh == 0
        if anew or self._bounds is None:
            self._bounds = self._quantiles(mine, load)
        edges = [0, *self._bounds, load.n]
        pieces = [Piece(low, high) for low, high in pairwise(edges)]
        sum_, sends = self._scatter(mine, pieces, load)
        return self._chosen(sum_, pieces, sends, load, exact=anew or load.keep is not None)

    def _quantiles(self, mine: Elements, load: Load) -> list[int]:
        """Where the regions but the first begin: the mean over the ranks that bring any (collective)."""
        told = np.zeros(load.ranks, np.float64)
        if len(mine):
            places = [rank * len(mine) // load.ranks for rank in range(1, load.ranks)]
            told[:] = [*mine.indices[places].tolist(), 1]
        self._post.add_up(told)
        if not told[-1]:
            return [piece.start for piece in equal_parts(load.n, load.ranks)[1:]]
        return [int(place / told[-1]) for place in told[:-1].tolist()]
