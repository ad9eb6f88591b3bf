"""Counter-based randomness of a run: any party's order of samples, in any round, without a history.

A stream is named by integers (run seed, purpose, round, party, ...). What a party draws depends on its name
alone: not on the rank that hosts it, the order of training, or how many parties are trained at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hpc_fl.counter import columns_of


class Stream(IntEnum):
    """What a random stream is for; part of its key."""

    MODEL = 1
    PARTITION = 2
    COHORT = 3
    ORDER = 4
    LOCAL = 5


def integers(names: Sequence[int], count: int) -> NDArray[np.uint64]:
    """``count`` numbers of 64 random bits for each key, (len(names), count)."""
    return columns_of(np.array(names, dtype=np.uint64), count)


def to_uniforms(drawn: NDArray[np.uint64]) -> NDArray[np.float64]:
    """:func:`integers` as numbers in (0, 1), in the same order."""
    drawn_53: NDArray[np.float64] = (drawn >> np.uint64(11)).astype(np.float64)
    return (drawn_53 + 0.5) * 2.0**-53


def permutations(keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Random orders, one a row: row i starts with a permutation of 0 .. counts[i]-1 named by keys[i].

    ``keys`` and ``counts`` have shape (R,); the result has shape (R, max(counts)), its columns past counts[i]
    are filler (the remaining numbers in increasing order). Row i depends on keys[i] and counts[i] alone.
    """
    width = int(counts.max(initial=0))
    # One bit is given up to sort the filler behind every drawn number, whatever its hash.
    draws = columns_of(keys, width) >> np.uint64(1)
    if (counts < width).any():
        draws[np.arange(width)[None, :] >= counts[:, None]] = np.iinfo(np.uint64).max
    return np.argsort(draws, axis=1, kind="stable")
