"""A row and the slots where its neighbours' rows arrive: what is done before short messages and after them.

For rows of a few kilobytes in the host's memory, whatever device they were made on: beside those a call from
Python takes longer than its arithmetic, so that all that can be said before is said once. A segment of a long
row with one source is mixed by it too, in one pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends.choice import cpu
from hpc_fl.backends.library import load

Floats = NDArray[Any]

_DESCRIBED: Final = Struct("<QQqqdQ")
"""``ShortRow`` of kernels/cpu/kernels.h."""


class ShortRow(Protocol):
    """``row`` (n,), n at least 1, and ``slots`` (sources, n): contiguous, both float32 or both float64, kept
    in their place. Weights are rounded to that dtype first; products are, before they are added.
    """

    def ready(self) -> bool:
        """Whether all of the row is finite. Marks each slot, by NaN, as one in which nothing has arrived."""
        ...

    def mix(self) -> None:
        """row = keep * row + take[0] * slots[0] + ..., in that order; where nothing has arrived, the row in
        the slot's stead.
        """
        ...


class ReferenceShortRow:
    """The definition."""

    def __init__(self, row: Floats, slots: Floats, keep: float, takes: Sequence[float]) -> None:
        self._row, self._slots = row, slots
        self._keep, self._takes = row.dtype.type(keep), [row.dtype.type(take) for take in takes]

    def ready(self) -> bool:
        self._slots[:, 0] = np.nan
        return bool(np.isfinite(self._row).all())

    def mix(self) -> None:
        mixed = self._row * self._keep
        for slot, take in zip(self._slots, self._takes, strict=True):
            mixed += (self._row if np.isnan(slot[0]) else slot) * take
        self._row[:] = mixed


class NativeShortRow:
    """The same bits by kernels/cpu/short_row.cpp, of the installed library or that at ``library``. Raises
    :class:`ConfigError` where it is missing.
    """

    __slots__ = ("_held", "_mix", "_place", "_ready")

    def __init__(
        self,
        row: Floats,
        slots: Floats,
        keep: float,
        takes: Sequence[float],
        library: Path | None = None,
    ) -> None:
        weights = np.array(takes, np.float64)
        self._held = row, slots, weights
        described = ctypes.create_string_buffer(
            _DESCRIBED.pack(
                row.ctypes.data, slots.ctypes.data, row.size, len(weights), keep, weights.ctypes.data
            )
        )
        # A reference made before is what ctypes takes in the shortest time; it holds what it refers to.
        self._place = ctypes.byref(described)
        self._ready, self._mix = load(library).short_row[row.dtype.str[1:]]

    def ready(self) -> bool:
        return self._ready(self._place) == 1

    def mix(self) -> None:
        self._mix(self._place)


_KINDS: Final[Mapping[str, Callable[[Floats, Floats, float, Sequence[float]], ShortRow]]] = {
    "reference": ReferenceShortRow,
    "native": NativeShortRow,
}


def short_row(row: Floats, slots: Floats, keep: float, takes: Sequence[float]) -> ShortRow:
    """See :class:`ShortRow`; by the backend of the CPU."""
    return _KINDS[cpu().name](row, slots, keep, takes)
