"""The k largest elements of a sum of which every rank owns a part: found by few numbers, brought to all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends import Array
from hpc_fl.collectives.elements import Elements, joined, sparse_size
from hpc_fl.collectives.messages import wait_for
from hpc_fl.collectives.sparse_scheme import Post, sound, too_large
from hpc_fl.compression.arrays import module_of

_MAGNITUDE: Final = 0x7FFFFFFF
_DIGIT: Final = 8
"""Bits told by one round of counts: 4 rounds of 2 KiB find a threshold among any number of elements."""

ROUNDS: Final = 2 + 32 // _DIGIT
"""Small collectives of an exact choice."""


class Largest:
    """Which elements pass. The threshold is kept, and may be used for sums that are not much different."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self.threshold: int | None = None
        """The smallest magnitude that passes, as the 31 bits below the sign."""

    def choose(self, sum_: Elements | None, k: int, *, exact: bool) -> tuple[Elements, list[int], int]:
        """Those of the own part's sum that pass, how many pass on each rank, and the union's size.

        ``exact``: the k largest of all, ties by lower index, where there are so many. Otherwise those above
        the last threshold, unless these are fewer than k/2, more than 2k, or so uneven that to send them
        might cost more than 24k (P-1)/P bytes. Raises :class:`NotFiniteError` on all ranks where a sum is
        None (collective).
        """
        magnitudes = None if sum_ is None else sum_.values.view("uint32") & np.uint32(_MAGNITUDE)
        threshold = None if exact else self.threshold
        passing = 0
        if magnitudes is not None and threshold is not None:
            passing = int((magnitudes >= threshold).sum())
        told = self._post.tell(-1 if sum_ is None else len(sum_), passing)
        if sum_ is None or magnitudes is None or (told[:, 0] < 0).any():
            raise too_large()
        sizes, counts = told.T.tolist()
        if threshold is not None and _fits(counts, k):
            return _those(sum_, magnitudes >= threshold), counts, sum(sizes)
        if sum(sizes) <= k:
            self.threshold = None
            return sum_, sizes, sum(sizes)
        passes, counts = self._exact(magnitudes, k)
        return _those(sum_, passes), counts, sum(sizes)

    def _exact(self, magnitudes: Array, k: int) -> tuple[Array, list[int]]:
        """Which of the own ones are among the k largest, and how many each rank has of these."""
        self.threshold, ties = self._kth(magnitudes, k)
        passes = magnitudes > self.threshold
        equal = module_of(magnitudes).flatnonzero(magnitudes == self.threshold)
        above, even = self._post.tell(int(passes.sum()), equal.size).T
        # Parts ascend with the ranks: so do the indices among which ties are settled.
        taken = np.clip(ties - (np.cumsum(even) - even), 0, even)
        passes[equal[: int(taken[self._post.rank])]] = True
        return passes, (above + taken).tolist()

    def _kth(self, magnitudes: Array, k: int) -> tuple[int, int]:
        """The k-th largest of all ranks' magnitudes, and how many that equal it are among the k.

        By its digits, the highest first: all ranks count theirs, of those that still may be it.
        """
        found, left = 0, k
        for shift in range(32 - _DIGIT, -1, -_DIGIT):
            digits = (magnitudes >> np.uint32(shift)) & np.uint32((1 << _DIGIT) - 1)
            counts = _counted(digits)
            self._post.add_up(counts)
            reach = np.cumsum(counts[::-1])[::-1]
            digit = int(np.flatnonzero(reach >= left)[-1])
            left -= int(reach[digit] - counts[digit])
            magnitudes = magnitudes[digits == digit]
            found |= digit << shift
        return found, left


def gathered(post: Post, chosen: Elements, counts: Sequence[int], k: int) -> Elements:
    """Everybody's chosen elements, which ascend with the ranks; ``counts`` of them by rank (collective).

    Uneven ones are first dealt out again, for each rank to send as many as any other.
    """
    if max(counts) > 2 * -(-k // post.size):
        chosen, counts = _dealt(post, chosen, counts)
    arrivals = {
        rank: post.expect(rank, chosen.n, sparse_size(counts[rank], chosen.n))
        for rank in post.others()
        if counts[rank]
    }
    sends = post.send(chosen, post.others() if len(chosen) else [])
    parts = [
        post.receive(arrivals[rank], chosen.values) if rank in arrivals else chosen
        for rank in range(post.size)
        if counts[rank] or rank == post.rank
    ]
    wait_for(sends)
    return joined(sound(parts))


def _dealt(post: Post, chosen: Elements, counts: Sequence[int]) -> tuple[Elements, list[int]]:
    """The elements after dealing out, as many for each rank, in the same order."""
    held = np.cumsum([0, *counts]).tolist()
    wanted = [rank * held[-1] // post.size for rank in range(post.size + 1)]

    def moves(source: int, target: int) -> slice:
        """Which of a source's elements become the target's."""
        low, high = max(held[source], wanted[target]), min(held[source + 1], wanted[target + 1])
        return slice(low - held[source], max(low, high) - held[source])

    expected = {}
    for source in post.others():
        move = moves(source, post.rank)
        if move.stop > move.start:
            expected[source] = post.expect(source, chosen.n, sparse_size(move.stop - move.start, chosen.n))
    sends = []
    for target in post.others():
        move = moves(post.rank, target)
        sends += post.send(chosen.at(move), [target] if move.stop > move.start else [])
    kept = chosen.at(moves(post.rank, post.rank))
    parts = [
        kept if source == post.rank else post.receive(expected[source], chosen.values)
        for source in range(post.size)
        if source == post.rank or source in expected
    ]
    wait_for(sends)
    return joined(sound(parts)), np.diff(wanted).tolist()


def _fits(counts: Sequence[int], k: int) -> bool:
    """Whether so many by rank may be sent as they are: without dealing out again more than k."""
    total = sum(counts)
    return k <= 2 * total and total <= 2 * k and (total <= k or max(counts) <= 2 * -(-k // len(counts)))


def _those(sum_: Elements, passes: Array) -> Elements:
    places = module_of(passes).flatnonzero(passes)
    return Elements(sum_.n, sum_.indices[places], sum_.values[places])


def _counted(digits: Array) -> NDArray[np.int64]:
    """How often each digit occurs, in the host's memory."""
    counts = module_of(digits).bincount(digits, minlength=1 << _DIGIT)
    return np.asarray(counts if isinstance(counts, np.ndarray) else counts.get(), np.int64)
