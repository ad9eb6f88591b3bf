"""The kernels in C++ (kernels/cpu), on NumPy arrays."""

from __future__ import annotations

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
"""Elements below which another thread costs more than it saves (it takes about 10 us to start). Also in
kernels/cpu/quick.cpp.
"""
_KEY: Final = Struct("<I")
_MAGNITUDE: Final = Struct("<f")
_GREATEST: Final = float(np.finfo(np.float32).max)
_BAD_INDEX: Final = 2
_BAD_VALUE: Final = 3
"""As in kernels/cpu/parts.h."""


class Native:
    """See :class:`hpc_fl.backends.backend.Backend`, whose docstrings define each function.

    ``isa``: ``portable``, ``avx2`` or ``avx512``; None is the best that this processor has. ``threads``: None
    is torch's number, which is the rank's share. ``library``: another build of the kernels. ``quick``: as in
    :class:`hpc_fl.backends.library.Library`. Raises :class:`ConfigError` where the library or the instruction
    set is missing.
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
        self.isa_number = found.sets[self.isa]
        self.most_threads = torch.get_num_threads if threads is None else lambda: threads
        self._call, self._at, self.quick = found.calls, found.at, found.quick

    def empty(self, size: int, dtype: str) -> NDArray[Any]:
        return np.empty(size, dtype)

    def check(self) -> None:
        """Nothing is left to say: every call has raised its own."""

    def add_topk(
        self, g: Floats, e: Floats | None, c: Floats | None, indices: Ints, values: Floats, hint: float = 0.0
    ) -> float:
        at = self._at
        key = self._call["add_topk"](
            self.isa_number,
            self._threads_for(g.size),
            at(g),
            at(e),
            at(c),
            g.size,
            indices.size,
            min(hint, _GREATEST),
            at(indices),
            at(values),
        )
        refuse_spoilt(key)
        return _MAGNITUDE.unpack(_KEY.pack(key))[0]  # type: ignore[no-any-return]

    def add_threshold(
        self, g: Floats, e: Floats | None, c: Floats | None, tau: float, indices: Ints, values: Floats
    ) -> int:
        at = self._at
        count = self._call["add_threshold"](
            self.isa_number,
            self._threads_for(g.size),
            at(g),
            at(e),
            at(c),
            g.size,
            min(tau, _GREATEST),
            at(indices),
            at(values),
        )
        refuse_spoilt(count)
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
        at = self._at
        status = self._call["add_sign"](
            self.isa_number,
            self._threads_for(g.size),
            at(g),
            at(e),
            at(e_scales),
            at(c),
            g.size,
            at(bounds),
            scales.size,
            at(bits),
            at(scales),
        )
        _refuse_bounds(status, g.size)
        refuse_spoilt(-status)

    def sign_residual(self, c: Floats, bounds: Bounds, scales: Floats, out: Floats) -> None:
        at = self._at
        status = self._call["sign_residual"](
            self.isa_number,
            self._threads_for(c.size),
            at(c),
            c.size,
            at(bounds),
            scales.size,
            at(scales),
            at(out),
        )
        _refuse_bounds(status, c.size)

    def add_signs(self, bits: Bytes, bounds: Bounds, scales: Floats, weight: float, out: Floats) -> None:
        at = self._at
        status = self._call["add_signs"](
            self.isa_number,
            self._threads_for(out.size),
            at(bits),
            out.size,
            at(bounds),
            scales.size,
            at(scales),
            weight,
            at(out),
        )
        _refuse_bounds(status, out.size)

    def majority(self, rows: NDArray[np.uint8], out: Bytes) -> None:
        at = self._at
        self._call["majority"](self._threads_for(rows.size), at(rows), *rows.shape, at(out))

    def scatter_add(self, indices: Ints, values: Floats, weight: float, out: Floats) -> None:
        at = self._at
        status = self._call["scatter_add"](
            self._threads_for(indices.size),
            at(indices),
            at(values),
            indices.size,
            weight,
            at(out),
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
        at = self._at
        return self._call["merge_add"](
            at(a_indices),
            at(a_values),
            a_indices.size,
            at(b_indices),
            at(b_values),
            b_indices.size,
            at(indices),
            at(values),
        )

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
        at = self._at
        status = self._call["add_quantize"](
            self.isa_number,
            self._threads_for(g.size),
            at(g),
            at(e),
            at(c),
            g.size,
            width,
            block,
            key,
            at(codes),
            at(scales),
        )
        refuse_spoilt(-status)

    def add_dequantized(
        self, codes: Bytes, scales: Floats, width: int, block: int, weight: float, out: Floats
    ) -> None:
        at = self._at
        self._call["add_dequantized"](
            self.isa_number,
            self._threads_for(out.size),
            at(codes),
            at(scales),
            width,
            block,
            weight,
            at(out),
            out.size,
        )

    def encode_gaps(self, indices: Ints, out: Bytes) -> int:
        at = self._at
        used = self._call["encode_gaps"](at(indices), indices.size, at(out))
        if used < 0:
            raise CodecError("indices must ascend from 0")
        return used

    def decode_gaps(self, code: Bytes, n: int, indices: Ints) -> None:
        at = self._at
        k = indices.size
        found, status = divmod(self._call["decode_gaps"](at(code), code.size, n, at(indices), k), 8)
        if status == _BAD_INDEX:
            raise WireError(f"gaps lead to more than {k} indices below {n}")
        if status == _BAD_VALUE:
            raise WireError("a gap takes more than 5 bytes")
        if status:
            raise WireError(f"gaps end after {found} of {k} indices")

    def encode_mask(self, indices: Ints, mask: Bytes) -> None:
        at = self._at
        if self._call["encode_mask"](at(indices), indices.size, at(mask), mask.size):
            raise CodecError(f"indices beyond a mask of {mask.size} bytes")

    def decode_mask(self, mask: Bytes, n: int, indices: Ints) -> None:
        at = self._at
        if self._call["decode_mask"](at(mask), n, at(indices), indices.size):
            Reference().decode_mask(mask, n, indices)  # refuses it as well, and says why

    def _threads_for(self, n: int) -> int:
        if n < 2 * _PER_THREAD:
            return 1
        return min(self.most_threads(), n // _PER_THREAD)


def _refuse_bounds(status: int, n: int) -> None:
    if status == _BAD_INDEX:
        raise CodecError(f"bounds must ascend from 0 to {n}")


def refuse_spoilt(status: int) -> None:
    """``status``: a count, or minus the status of kernels/cpu/parts.h."""
    if status < 0:
        raise NotFiniteError("the update, or what was kept back of earlier ones, is not finite")
