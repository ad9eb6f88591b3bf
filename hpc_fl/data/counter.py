"""Random numbers that are a function of (key, row, column): any row can be made alone, anywhere, in any
order.

Integer arithmetic up to the last scaling, so that every machine and instruction set makes the same bits.
The mixer is the output function of SplitMix64 (Steele, Lea and Flood 2014).
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hpc_fl.data.source import Float32Array, Int64Array

Words = npt.NDArray[np.uint64]

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_PAIRS: Final = np.uint64(0x0000FFFF0000FFFF)
_LOW: Final = np.uint64(0xFFFFFFFF)


def key(seed: int, *path: int) -> np.uint64:
    """One 64-bit key for a seed (any integer) and a path of small integers; unequal inputs give unrelated
    keys.
    """
    mixed = np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)
    for part in path:
        mixed = _mix(mixed * _STEP + np.uint64(part + 1))
    return np.uint64(_mix(mixed + _STEP)[0])


def words(stream: np.uint64, rows: Int64Array, columns: int) -> Words:
    """Uniform 64-bit words of shape (len(rows), columns)."""
    start = _mix((rows.astype(np.uint64) + np.uint64(1)) * _STEP + stream)
    return _mix(start[:, None] + np.arange(1, columns + 1, dtype=np.uint64) * _STEP)


def below(bound: int, stream: np.uint64, rows: Int64Array, columns: int) -> Int64Array:
    """Uniform integers in 0..bound-1 (bound < 2^32) of shape (len(rows), columns)."""
    high = words(stream, rows, columns) >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def normal(stream: np.uint64, rows: Int64Array, columns: int) -> Float32Array:
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


def _mix(z: Words) -> Words:
    """Scramble the words of `z`, in place."""
    for shift, factor in _MIX:
        z ^= z >> shift
        z *= factor
    z ^= z >> np.uint64(31)
    return z
