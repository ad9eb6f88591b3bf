"""Where the elements of a sparse payload lie: whichever of three codings is the smallest.

::

    plain   int32 each                                     4k bytes
    mask    one bit for each of the n elements             ceil(n / 8)
    gaps    differences less 1, 7 bits a byte (LEB128)     k, and 1 more for each gap of 128 or more, ...

A payload says which in its meta. Gaps win below about k = n/8, the mask above (Elias codes, as in QSGD or
STC, would save at most a few bits an index more and decode bit by bit).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import require
from hpc_fl.errors import WireError

PLAIN: Final = 0
MASK: Final = 1
GAPS: Final = 2
_STEPS: Final = (2**7, 2**14 - 2**7, 2**21 - 2**14, 2**28 - 2**21)
"""What a gap must grow by to take one byte more."""


def write_indices(indices: Array, n: int) -> tuple[int, Array]:
    """The coding chosen for ``indices`` (k,) int32, ascending below n, and its array (int32 or uint8)."""
    backend, k, mask_size = backend_of(indices), indices.size, -(-n // 8)
    best = min(4 * k, mask_size)
    if k < best:
        # Up to 5 bytes a gap, of which few are used: the memory of the others is never touched.
        code = backend.empty(5 * k, "uint8")
        used = backend.encode_gaps(indices, code)
        if used < best:
            return GAPS, code[:used].copy()
    if mask_size < 4 * k:
        mask = backend.empty(mask_size, "uint8")
        backend.encode_mask(indices, mask)
        return MASK, mask
    return PLAIN, indices


def most_bytes(k: int, n: int) -> int:
    """The most that :func:`write_indices` needs for k of n."""
    rest, gaps = n - k, k
    for step in _STEPS:
        longer = min(k, rest // step)
        gaps, rest = gaps + longer, rest - longer * step
    return min(4 * k, -(-n // 8), gaps)


def read_indices(coding: int, part: Array, k: int, payload: Payload) -> Array:
    """The indices (k,) int32, ascending and below n.

    ``part`` is on the device where they are wanted. Raises :class:`WireError` for anything else than
    :func:`write_indices` gave for k of the payload's n elements.
    """
    require(k <= payload.n, payload, f"{k} elements chosen of {payload.n}")
    read = _READERS.get(coding)
    if read is None:
        raise WireError(f"payload codes its indices by {coding}, known are {sorted(_READERS)}")
    return read(part, k, payload)


def _plain(part: Array, k: int, payload: Payload) -> Array:
    fits = part.dtype == np.int32 and part.size == k
    require(fits, payload, f"{part.size} {part.dtype} are not {k} int32 indices")
    inside = k == 0 or (
        int(part[0]) >= 0 and int(part[-1]) < payload.n and bool((part[1:] > part[:-1]).all())
    )
    require(inside, payload, f"indices must ascend within 0..{payload.n - 1}")
    return part


def _mask(part: Array, k: int, payload: Payload) -> Array:
    fits = part.dtype == np.uint8 and part.size == -(-payload.n // 8)
    require(fits, payload, f"{part.size} {part.dtype} are not a mask of {payload.n} bits")
    indices = backend_of(part).empty(k, "int32")
    backend_of(part).decode_mask(part, payload.n, indices)
    backend_of(part).check()
    return indices


def _gaps(part: Array, k: int, payload: Payload) -> Array:
    fits = part.dtype == np.uint8 and k <= part.size <= 5 * k
    require(fits, payload, f"{part.size} {part.dtype} are not {k} gaps")
    indices = backend_of(part).empty(k, "int32")
    backend_of(part).decode_gaps(part, payload.n, indices)
    backend_of(part).check()
    return indices


_READERS: Final[dict[int, Callable[[Array, int, Payload], Array]]] = {PLAIN: _plain, MASK: _mask, GAPS: _gaps}
