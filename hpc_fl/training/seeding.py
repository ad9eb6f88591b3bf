"""Counter-based randomness: any party's order of samples, in any round, without a generator's history.

A stream is named by integers (run seed, purpose, round, party, ...) hashed to a 64-bit key with the
SplitMix64 finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014). What a
party draws depends on its name alone: not on the rank that hosts it, the order of training, or how many
parties are trained at once.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = 0xFFFFFFFFFFFFFFFF


class Stream(IntEnum):
    """What a random stream is for; part of its key."""

    MODEL = 1
    PARTITION = 2
    COHORT = 3
    ORDER = 4
    LOCAL = 5


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def key(*names: int) -> int:
    """A 64-bit key for the stream named by these integers; the order of the names counts."""
    state = 0
    for name in names:
        state = _mix((state + _GOLDEN + (name & _MASK)) & _MASK)
    return state


def mix64(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The SplitMix64 finaliser on an array of any shape (a new array)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def extend_keys(keys: NDArray[np.uint64], names: NDArray[np.int64]) -> NDArray[np.uint64]:
    """``key(*before, name)`` for arrays: ``keys`` are the keys of ``before``; the two broadcast."""
    return mix64(keys + np.uint64(_GOLDEN) + names.astype(np.uint64))


def uniforms(name: int, count: int) -> NDArray[np.float64]:
    """``count`` numbers in (0, 1), named by a key."""
    drawn = mix64(np.uint64(name) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    return ((drawn >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def permutations(keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Random orders, one a row: row i starts with a permutation of 0 .. counts[i]-1 named by keys[i].

    ``keys`` and ``counts`` have shape (R,); the result has shape (R, max(counts)), its columns past counts[i]
    are filler (the remaining numbers in increasing order). Row i depends on keys[i] and counts[i] alone.
    """
    width = int(counts.max(initial=0))
    columns = np.arange(width, dtype=np.uint64)
    # One bit is given up to sort the filler behind every drawn number, whatever its hash.
    draws = mix64(keys[:, None] + (columns + np.uint64(1)) * np.uint64(_GOLDEN)) >> np.uint64(1)
    draws[columns[None, :] >= counts[:, None].astype(np.uint64)] = np.uint64(_MASK)
    return np.argsort(draws, axis=1, kind="stable")
