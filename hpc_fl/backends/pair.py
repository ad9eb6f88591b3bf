"""A row and the slot where a peer's row arrives: what is done before a short message and after it.

For rows of a few kilobytes in the host's memory, whatever device they were made on: beside those a call from
Python takes longer than its arithmetic, so that all that can be said before is said once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends.choice import cpu
from hpc_fl.backends.library import load

Floats = NDArray[Any]

_DESCRIBED: Final = Struct("<QQqdd")
"""``Pair`` of kernels/cpu/kernels.h."""


class Pair(Protocol):
    """``row`` and ``slot`` (n,), n at least 1, contiguous, both float32 or both float64, kept in their place.
    Weights are rounded to that dtype first; products are, before they are added.
    """

    def ready(self) -> bool:
        """Whether all of the row is finite. Marks the slot, by NaN, as one in which nothing has arrived."""
        ...

    def mix(self) -> None:
        """row = keep * row + take * slot; where nothing has arrived, the row in its stead."""
        ...


class ReferencePair:
    """The definition."""

    def __init__(self, row: Floats, slot: Floats, keep: float, take: float) -> None:
        self._row, self._slot = row, slot
        self._keep, self._take = row.dtype.type(keep), row.dtype.type(take)

    def ready(self) -> bool:
        self._slot[0] = np.nan
        return bool(np.isfinite(self._row).all())

    def mix(self) -> None:
        arrived = self._row if np.isnan(self._slot[0]) else self._slot
        np.add(self._row * self._keep, arrived * self._take, out=self._row)


class NativePair:
    """The same bits by kernels/cpu/pair.cpp, of the installed library or that at ``library``. Raises
    :class:`ConfigError` where it is missing.
    """

    __slots__ = ("_held", "_mix", "_place", "_ready")

    def __init__(
        self, row: Floats, slot: Floats, keep: float, take: float, library: Path | None = None
    ) -> None:
        self._held = row, slot
        described = ctypes.create_string_buffer(
            _DESCRIBED.pack(row.ctypes.data, slot.ctypes.data, row.size, keep, take)
        )
        # A reference made before is what ctypes takes in the shortest time; it holds what it refers to.
        self._place = ctypes.byref(described)
        self._ready, self._mix = load(library).pairs[row.dtype.str[1:]]

    def ready(self) -> bool:
        return self._ready(self._place) == 1

    def mix(self) -> None:
        self._mix(self._place)


_PAIRS: Final[Mapping[str, Callable[[Floats, Floats, float, float], Pair]]] = {
    "reference": ReferencePair,
    "native": NativePair,
}


def pair_of(row: Floats, slot: Floats, keep: float, take: float) -> Pair:
    """See :class:`Pair`; by the backend of the CPU."""
    return _PAIRS[cpu().name](row, slot, keep, take)
