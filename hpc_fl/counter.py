"""Random numbers that are a function of a key and a position: any of them can be made alone, in any order.

Integer arithmetic up to the last scaling, so that every machine and instruction set makes the same bits. The
mixer is the output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014).
"""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_STEP: Final = np.uint64(_GOLDEN)
_MIX: Final = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_PAIRS: Final = np.uint64(0x0000FFFF0000FFFF)
_LOW: Final = np.uint64(0xFFFFFFFF)


def key(*names: int) -> int:
    """A 64-bit key for the stream named by these integers; their order counts."""
    state = 0
    for name in names:
        state = (state + _GOLDEN + (name & _MASK)) & _MASK
        for shift, factor in _MIX:
            state = ((state ^ (state >> shift)) * factor) & _MASK
        state ^= state >> 31
    return state


def extend_keys(keys: Words, names: Int64Array) -> Words:
    """``key(*before, name)`` for arrays: ``keys`` are the keys of ``before``; the two broadcast."""
    return mix_in_place(keys + _STEP + names.astype(np.uint64))


def mix(z: Words) -> Words:
    """The mixer on an array of any shape (a new array)."""
    return mix_in_place(z.copy())


def mix_in_place(z: Words) -> Words:
    """The mixer on the caller's own array, which it gives back."""
    for shift, factor in _MIX:
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z


def words(stream: int, rows: Int64Array, columns: int) -> Words:
    """Uniform 64-bit words of shape (len(rows), columns)."""
    start = mix((rows.astype(np.uint64) + np.uint64(1)) * _STEP + np.uint64(stream))
    return columns_of(start, columns)


def columns_of(keys: Words, columns: int) -> Words:
    """Uniform 64-bit words of shape (len(keys), columns): row i depends on keys[i] alone."""
    return mix_in_place(keys[:, None] + _offsets(columns))


@lru_cache(maxsize=16)
def _offsets(columns: int) -> Words:
    return np.arange(1, columns + 1, dtype=np.uint64) * _STEP


def below(bound: int, stream: int, rows: Int64Array, columns: int) -> Int64Array:
    """Uniform integers in 0..bound-1 (bound < 2^32) of shape (len(rows), columns)."""
    high = words(stream, rows, columns) >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def normal(stream: int, rows: Int64Array, columns: int) -> Float32Array:
    """Float32 of mean 0 and variance 1, shape (len(rows), columns): the scaled sum of four uniform 16-bit
    numbers.

    Close to a Gaussian within three deviations, and never beyond 3.47 (Irwin and Hall).
    """
    bits = words(stream, rows, columns)
    sums = bits & _PAIRS
    bits >>= np.uint64(16)
    bits &= _PAIRS
    sums += bits
    sums += sums >> np.uint64(32)
    sums &= _LOW
    variance = 4 * (65536.0**2 - 1) / 12
    # The sums stay below 2^18, so that these float32 are exact.
    result: Float32Array = sums.astype(np.uint32).astype(np.float32)
    result -= np.float32(2 * 65535)
    result *= np.float32(variance**-0.5)
    return result
