"""The random numbers of stochastic rounding: a function of a key and a position, on every backend alike."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

M1: Final = 0x7FEB352D
M2: Final = 0x846CA68B
HIGH: Final = 0x9E3779B9


def uniform(key: int, start: int, stop: int) -> NDArray[np.float32]:
    """u(key, i) for i in start..stop-1: odd multiples of 2^-17, between 0 and 1.

    Two neighbours share what is drawn for j = i // 2. With k0, k1 the lower and upper half of the 64-bit key,
    all arithmetic modulo 2^32::

        x = low32(j) + k0 + high32(j) * 0x9E3779B9
        x ^= x >> 16;  x *= 0x7feb352d;  x ^= x >> 15;  x += k1;  x *= 0x846ca68b;  x ^= x >> 16
        u = (half + 1/2) * 2^-16, half = the lower 16 bits of x for even i, the upper ones for odd i

    So |u - its exact twin| is at most 2^-17, and as often above as below: rounding by u errs by less than
    1e-5 of a level in the mean. The mixer is lowbias32 (C. Wellons, Prospecting for hash functions, 2018),
    with half of the key added between its two multiplications; 32 numbers take ten AVX-512 instructions.
    """
    j = np.arange(start // 2, (stop + 1) // 2, dtype=np.uint64)
    x = (
        j.astype(np.uint32)
        + np.uint32(key & 0xFFFFFFFF)
        + (j >> np.uint64(32)).astype(np.uint32) * np.uint32(HIGH)
    )
    x ^= x >> np.uint32(16)
    x *= np.uint32(M1)
    x ^= x >> np.uint32(15)
    x += np.uint32(key >> 32 & 0xFFFFFFFF)
    x *= np.uint32(M2)
    x ^= x >> np.uint32(16)
    halves = np.stack([x & np.uint32(0xFFFF), x >> np.uint32(16)], axis=1).reshape(-1)
    drawn = halves[start % 2 :][: stop - start]
    return (drawn.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-16)
