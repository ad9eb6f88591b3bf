"""The kernels in C++ (kernels/cpu), on NumPy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from struct import Struct
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_fl.backends.library import load
from hpc_fl.backends.reference import Reference
from hpc_fl.errors import CodecError, ConfigError, NotFiniteError, WireError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bounds = NDArray[np.int64]

_PER_THREAD: Final = 65_536
"""Elements below which another thread costs more than it saves (it takes about 10 us to start)."""
_address: Final = ctypes.addressof
_first_byte: Final[Callable[[Any], Any]] = ctypes.c_char.from_buffer
_KEY: Final = Struct("<I")
_MAGNITUDE: Final = Struct("<f")
_GREATEST: Final = float(np.finfo(np.float32).max)
_BAD_INDEX: Final = 2
_BAD_VALUE: Final = 3
"""As in kernels/cpu/parts.h."""


class Native:
    """See :class:`hpc_fl.backends.backend.Backend`, whose docstrings define each function.

    ``isa``: ``portable``, ``avx2`` or ``avx512``; None is the best that this processor has. ``threads``: None
    is torch's number, which is the rank's share. ``library``: another build of the kernels. Raises
    :class:`ConfigError` where the library or the instruction set is missing.
    """

    name = "native"

    def __init__(
        self, isa: str | None = None, threads: int | None = None, library: Path | None = None
    ) -> None:
        found = load(library)
        self.isa = isa or list(found.sets)[-1]
        if self.isa not in found.sets:
            raise ConfigError(
                f"instruction set: {self.isa} given, this processor has {', '.join(found.sets)}"
            )
        self._isa, self._threads, self._call = found.sets[self.isa], threads, found.calls

    def empty(self, size: int, dtype: str) -> NDArray[Any]:
        return np.empty(size, dtype)

    def check(self) -> None:
        """Nothing is left to say: every call has raised its own."""

    def add_topk(
        self, g: Floats, e: Floats | None, c: Floats | None, indices: Ints, values: Floats, hint: float = 0.0
    ) -> float:
        key = self._call["add_topk"](
            self._isa, self._threads_for(g.size), _at(g), _at(e), _to(c), g.size, indices.size,
            min(hint, _GREATEST), _to(indices), _to(values),
        )  # fmt: skip
        _refuse_spoilt(key)
        return _MAGNITUDE.unpack(_KEY.pack(key))[0]  # type: ignore[no-any-return]

    def add_threshold(
        self, g: Floats, e: Floats | None, c: Floats | None, tau: float, indices: Ints, values: Floats
    ) -> int:
        count = self._call["add_threshold"](
            self._isa, self._threads_for(g.size), _at(g), _at(e), _to(c), g.size, min(tau, _GREATEST),
            _to(indices), _to(values),
        )  # fmt: skip
        _refuse_spoilt(count)
        return count

    def add_sign(
        self,
        g: Floats,
        e: Floats | None,
        e_scales: Floats | None,
        c: Floats | None,
        bounds: Bounds,
        bits: Bytes,
        scales: Floats,
    ) -> None:
        status = self._call["add_sign"](
            self._isa, self._threads_for(g.size), _at(g), _at(e), _at(e_scales), _to(c), g.size, _at(bounds),
            scales.size, _to(bits), _to(scales),
        )  # fmt: skip
        _refuse_spoilt(-status)

    def sign_residual(self, c: Floats, bounds: Bounds, scales: Floats, out: Floats) -> None:
        self._call["sign_residual"](
            self._isa,
            self._threads_for(c.size),
            _at(c),
            c.size,
            _at(bounds),
            scales.size,
            _at(scales),
            _to(out),
        )

    def add_signs(self, bits: Bytes, bounds: Bounds, scales: Floats, weight: float, out: Floats) -> None:
        self._call["add_signs"](
            self._isa, self._threads_for(out.size), _at(bits), out.size, _at(bounds), scales.size,
            _at(scales), weight, _to(out),
        )  # fmt: skip

    def majority(self, rows: NDArray[np.uint8], out: Bytes) -> None:
        self._call["majority"](self._threads_for(rows.size), _at(rows), *rows.shape, _to(out))

    def scatter_add(self, indices: Ints, values: Floats, weight: float, out: Floats) -> None:
        status = self._call["scatter_add"](
            self._threads_for(indices.size),
            _at(indices),
            _at(values),
            indices.size,
            weight,
            _to(out),
            out.size,
        )
        if status == _BAD_INDEX:
            raise WireError(f"indices of a sparse payload must ascend within 0..{out.size - 1}")
        if status:
            raise WireError("a sparse payload holds a value that is not finite")

    def merge_add(
        self,
        a_indices: Ints,
        a_values: Floats,
        b_indices: Ints,
        b_values: Floats,
        indices: Ints,
        values: Floats,
    ) -> int:
        return self._call["merge_add"](
            _at(a_indices), _at(a_values), a_indices.size, _at(b_indices), _at(b_values), b_indices.size,
            _to(indices), _to(values),
        )  # fmt: skip

    def add_quantize(
        self,
        g: Floats,
        e: Floats | None,
        c: Floats | None,
        width: int,
        block: int,
        key: int,
        codes: Bytes,
        scales: Floats,
    ) -> None:
        status = self._call["add_quantize"](
            self._isa, self._threads_for(g.size), _at(g), _at(e), _to(c), g.size, width, block, key,
            _to(codes), _to(scales),
        )  # fmt: skip
        _refuse_spoilt(-status)

    def add_dequantized(
        self, codes: Bytes, scales: Floats, width: int, block: int, weight: float, out: Floats
    ) -> None:
        self._call["add_dequantized"](
            self._isa, self._threads_for(out.size), _at(codes), _at(scales), width, block, weight, _to(out),
            out.size,
        )  # fmt: skip

    def encode_gaps(self, indices: Ints, out: Bytes) -> int:
        used = self._call["encode_gaps"](_at(indices), indices.size, _to(out))
        if used < 0:
            raise CodecError("indices must ascend from 0")
        return used

    def decode_gaps(self, code: Bytes, n: int, indices: Ints) -> None:
        k = indices.size
        found, status = divmod(self._call["decode_gaps"](_at(code), code.size, n, _to(indices), k), 8)
        if status == _BAD_INDEX:
            raise WireError(f"gaps lead to more than {k} indices below {n}")
        if status == _BAD_VALUE:
            raise WireError("a gap takes more than 5 bytes")
        if status:
            raise WireError(f"gaps end after {found} of {k} indices")

    def encode_mask(self, indices: Ints, mask: Bytes) -> None:
        if self._call["encode_mask"](_at(indices), indices.size, _to(mask), mask.size):
            raise CodecError(f"indices beyond a mask of {mask.size} bytes")

    def decode_mask(self, mask: Bytes, n: int, indices: Ints) -> None:
        if self._call["decode_mask"](_at(mask), n, _to(indices), indices.size):
            Reference().decode_mask(mask, n, indices)  # refuses it as well, and says why

    def _threads_for(self, n: int) -> int:
        if n < 2 * _PER_THREAD:
            return 1
        most = torch.get_num_threads() if self._threads is None else self._threads
        return min(most, n // _PER_THREAD)


def _at(array: NDArray[Any] | None) -> int:
    """The address of the first element; 0 where there is no array."""
    if array is None:
        return 0
    try:
        return _address(_first_byte(array))  # a third of the time of what follows
    except (TypeError, ValueError):  # read-only, or empty
        return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _to(array: NDArray[Any] | None) -> int:
    """The same of an array that is to be written."""
    if array is not None and not array.flags.writeable:
        raise CodecError("an output is read-only: give an array of your own")
    return _at(array)


def _refuse_spoilt(status: int) -> None:
    """``status``: a count, or minus the status of kernels/cpu/parts.h."""
    if status < 0:
        raise NotFiniteError("the update, or what was kept back of earlier ones, is not finite")
