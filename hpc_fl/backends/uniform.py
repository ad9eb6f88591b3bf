"""The random numbers of stochastic rounding: a function of a key and a position, on every backend alike."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

M1: Final = 0x7FEB352D
M2: Final = 0x846CA68B
HIGH: Final = 0x9E3779B9


def uniform(key: int, start: int, stop: int) -> NDArray[np.float32]:
    """u(key, i) for i in start..stop-1: multiples of 2^-24 in [0, 1).

    With k0, k1 the lower and upper half of the 64-bit key, all arithmetic modulo 2^32::

        x = low32(i) + k0 + high32(i) * 0x9E3779B9
        x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x += k1;  x *= 0x846ca68b;  x ^= x >> 16
        u = (x >> 8) * 2^-24

    The mixer is lowbias32 (C. Wellons, Prospecting for hash functions, 2018), with half of the key added
    between its two multiplications; 16 numbers take ten AVX-512 instructions.
    """
    i = np.arange(start, stop, dtype=np.uint64)
    x = (
        i.astype(np.uint32)
        + np.uint32(key & 0xFFFFFFFF)
        + (i >> np.uint64(32)).astype(np.uint32) * np.uint32(HIGH)
    )
    x ^= x >> np.uint32(16)
    x *= np.uint32(M1)
    x ^= x >> np.uint32(15)
    x += np.uint32(key >> 32 & 0xFFFFFFFF)
    x *= np.uint32(M2)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
