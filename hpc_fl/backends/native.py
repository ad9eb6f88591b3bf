"""The kernels in C++ (kernels/cpu), on NumPy arrays. ctypes releases the GIL while they run."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_fl.backends.library import instruction_sets, load
from hpc_fl.backends.reference import Reference
from hpc_fl.errors import CodecError, ConfigError, NotFiniteError, WireError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bounds = NDArray[np.int64]

_PER_THREAD: Final = 65_536
"""Elements below which another thread costs more than it saves (it takes about 10 us to start)."""
_address: Final = ctypes.addressof
_first_byte: Final = ctypes.c_char.from_buffer
_BAD_INDEX: Final = 2
_BAD_VALUE: Final = 3
"""As in kernels/cpu/parts.h."""


class Native:
    """See :class:`hpc_fl.backends.backend.Backend`, whose docstrings define each function.

    ``isa``: ``portable``, ``avx2`` or ``avx512``; None is the best that this processor has. ``threads``: None is
    torch's number, which is the rank's share. ``library``: another build of the kernels. Raises
    :class:`ConfigError` where the library or the instruction set is missing.
    """

    name = "native"

    def __init__(
        self, isa: str | None = None, threads: int | None = None, library: Path | None = None
    ) -> None:
        self._library = load(library)
        found = instruction_sets(self._library)
        self.isa = isa or list(found)[-1]
        if self.isa not in found:
            raise ConfigError(f"instruction set: {self.isa} given, this processor has {', '.join(found)}")
        self._isa, self._threads = found[self.isa], threads
        self._work = threading.local()

    def empty(self, size: int, dtype: str) -> NDArray[Any]:
        return np.empty(size, dtype)

    def check(self) -> None:
        """Nothing is left to say: every call has raised its own."""

    def add_topk(
        self, g: Floats, e: Floats | None, c: Floats | None, indices: Ints, values: Floats, hint: float = 0.0
    ) -> float:
        threads, k, threshold = self._threads_for(g.size), indices.size, ctypes.c_float()
        room = self._library.hpc_topk_room(g.size, k, threads)
        work_indices, work_values = self._workspace(room * threads)
        status = self._library.hpc_add_topk(
            self._isa, threads, _at(g), _at(e), _at(c), g.size, k, hint, _at(indices), _at(values),
            _at(work_indices), _at(work_values), room, ctypes.byref(threshold),
        )  # fmt: skip
        _refuse_spoilt(status)
        return threshold.value

    def add_threshold(
        self, g: Floats, e: Floats | None, c: Floats | None, tau: float, indices: Ints, values: Floats
    ) -> int:
        count = ctypes.c_int64()
        status = self._library.hpc_add_threshold(
            self._isa, self._threads_for(g.size), _at(g), _at(e), _at(c), g.size, tau, _at(indices), _at(values),
            ctypes.byref(count),
        )  # fmt: skip
        _refuse_spoilt(status)
        return count.value

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
        status = self._library.hpc_add_sign(
            self._isa, self._threads_for(g.size), _at(g), _at(e), _at(e_scales), _at(c), g.size, _at(bounds),
            scales.size, _at(bits), _at(scales),
        )  # fmt: skip
        _refuse_spoilt(status)

    def sign_residual(self, c: Floats, bounds: Bounds, scales: Floats, out: Floats) -> None:
        self._library.hpc_sign_residual(
            self._isa,
            self._threads_for(c.size),
            _at(c),
            c.size,
            _at(bounds),
            scales.size,
            _at(scales),
            _at(out),
        )

    def add_signs(self, bits: Bytes, bounds: Bounds, scales: Floats, weight: float, out: Floats) -> None:
        self._library.hpc_add_signs(
            self._isa, self._threads_for(out.size), _at(bits), out.size, _at(bounds), scales.size, _at(scales),
            weight, _at(out),
        )  # fmt: skip

    def majority(self, rows: NDArray[np.uint8], out: Bytes) -> None:
        self._library.hpc_majority(
            self._threads_for(rows.size), _at(rows), rows.shape[0], rows.shape[1], _at(out)
        )

    def scatter_add(self, indices: Ints, values: Floats, weight: float, out: Floats) -> None:
        status = self._library.hpc_scatter_add(
            self._threads_for(indices.size),
            _at(indices),
            _at(values),
            indices.size,
            weight,
            _at(out),
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
        size: int = self._library.hpc_merge_add(
            _at(a_indices), _at(a_values), a_indices.size, _at(b_indices), _at(b_values), b_indices.size,
            _at(indices), _at(values),
        )  # fmt: skip
        return size

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
        status = self._library.hpc_add_quantize(
            self._isa, self._threads_for(g.size), _at(g), _at(e), _at(c), g.size, width, block, key, _at(codes),
            _at(scales),
        )  # fmt: skip
        _refuse_spoilt(status)

    def add_dequantized(
        self, codes: Bytes, scales: Floats, width: int, block: int, weight: float, out: Floats
    ) -> None:
        self._library.hpc_add_dequantized(
            self._isa, self._threads_for(out.size), _at(codes), _at(scales), width, block, weight, _at(out),
            out.size,
        )  # fmt: skip

    def encode_gaps(self, indices: Ints, out: Bytes) -> int:
        used: int = self._library.hpc_encode_gaps(_at(indices), indices.size, _at(out))
        if used < 0:
            raise CodecError("indices must ascend from 0")
        return used

    def decode_gaps(self, code: Bytes, n: int, indices: Ints) -> None:
        k, found = indices.size, ctypes.c_int64()
        status = self._library.hpc_decode_gaps(_at(code), code.size, n, _at(indices), k, ctypes.byref(found))
        if status == _BAD_INDEX:
            raise WireError(f"gaps lead to more than {k} indices below {n}")
        if status == _BAD_VALUE:
            raise WireError("a gap takes more than 5 bytes")
        if status:
            raise WireError(f"gaps end after {found.value} of {k} indices")

    def encode_mask(self, indices: Ints, mask: Bytes) -> None:
        if self._library.hpc_encode_mask(_at(indices), indices.size, _at(mask), mask.size):
            raise CodecError(f"indices beyond a mask of {mask.size} bytes")

    def decode_mask(self, mask: Bytes, n: int, indices: Ints) -> None:
        if self._library.hpc_decode_mask(_at(mask), n, _at(indices), indices.size):
            Reference().decode_mask(mask, n, indices)  # refuses it as well, and says why

    def _threads_for(self, n: int) -> int:
        most = torch.get_num_threads() if self._threads is None else self._threads
        return max(1, min(most, n // _PER_THREAD))

    def _workspace(self, size: int) -> tuple[Ints, Floats]:
        """This thread's two work arrays. Memory is taken where it is written, usually a small part."""
        kept: tuple[Ints, Floats] | None = getattr(self._work, "arrays", None)
        if kept is None or kept[0].size < size:
            self._work.arrays = kept = (np.empty(size, np.int32), np.empty(size, np.float32))
        return kept


def _at(array: NDArray[Any] | None) -> int | None:
    """The address of the first element."""
    if array is None:
        return None
    try:
        return _address(_first_byte(array))  # a third of the time of what follows
    except (TypeError, ValueError):  # read-only, or empty
        return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _refuse_spoilt(status: int) -> None:
    if status:
        raise NotFiniteError("the update, or what was kept back of earlier ones, is not finite")
