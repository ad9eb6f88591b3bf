"""Every argument of every kernel is looked at here: what passes cannot make a kernel leave its arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from hpc_fl.backends.backend import Array, Backend
from hpc_fl.errors import CodecError

_INT32, _INT64, _UINT8, _FLOAT32 = (np.dtype(name) for name in ("int32", "int64", "uint8", "float32"))
MAX_N: Final = 2**31 - 1
WIDTHS: Final = range(2, 9)


class Checked:
    """A backend whose arguments are checked first. Raises :class:`CodecError`, with nothing written.

    ``kind`` is the type of array that the backend takes. Outputs may not overlap inputs, except where
    :class:`Backend` says so; that is not checked.
    """

    def __init__(self, backend: Backend, kind: type[Any]) -> None:
        self._backend, self._kind = backend, kind

    @property
    def name(self) -> str:
        return self._backend.name

    def empty(self, size: int, dtype: str) -> Array:
        return self._backend.empty(size, dtype)

    def check(self) -> None:
        self._backend.check()

    def add_topk(
        self,
        g: Array,
        e: Array | None,
        c: Array | None,
        indices: Array,
        values: Array,
        hint: float | Array = 0.0,
    ) -> float | Array:
        n = self._update(g, e, c)
        k = self._out("indices", indices, _INT32)
        self._out("values", values, _FLOAT32, k)
        if k > n:
            raise CodecError(f"top-k: k = {k} of a buffer of {n} elements; at most {n}")
        return self._backend.add_topk(g, e, c, indices, values, hint)

    def add_threshold(
        self, g: Array, e: Array | None, c: Array | None, tau: float, indices: Array, values: Array
    ) -> int:
        n = self._update(g, e, c)
        self._out("indices", indices, _INT32, n)
        self._out("values", values, _FLOAT32, n)
        if not tau >= 0:
            raise CodecError(f"threshold: {tau} given, 0 or more expected")
        return self._backend.add_threshold(g, e, c, tau, indices, values)

    def add_sign(
        self,
        g: Array,
        e: Array | None,
        e_scales: Array | None,
        c: Array | None,
        bounds: Array,
        bits: Array,
        scales: Array,
    ) -> None:
        n = self._update(g, e, c)
        segments = self._array("bounds", bounds, _INT64) - 1
        self._out("bits", bits, _UINT8, -(-n // 8))
        self._out("scales", scales, _FLOAT32, segments)
        if (e is None) != (e_scales is None):
            raise CodecError("sign: what was kept back and its scales go together: give both or neither")
        if e_scales is not None:
            self._array("e_scales", e_scales, _FLOAT32, segments)
        self._backend.add_sign(g, e, e_scales, c, bounds, bits, scales)

    def sign_residual(self, c: Array, bounds: Array, scales: Array, out: Array) -> None:
        n = self._array("c", c, _FLOAT32)
        self._array("scales", scales, _FLOAT32, self._array("bounds", bounds, _INT64) - 1)
        self._out("out", out, _FLOAT32, n)
        self._backend.sign_residual(c, bounds, scales, out)

    def add_signs(self, bits: Array, bounds: Array, scales: Array, weight: float, out: Array) -> None:
        n = self._out("out", out, _FLOAT32)
        self._array("scales", scales, _FLOAT32, self._array("bounds", bounds, _INT64) - 1)
        self._array("bits", bits, _UINT8, -(-n // 8))
        self._backend.add_signs(bits, bounds, scales, weight, out)

    def majority(self, rows: Array, out: Array) -> None:
        self._own("rows", rows)
        if rows.ndim != 2 or rows.dtype != _UINT8 or not rows.flags.c_contiguous or not len(rows):
            raise CodecError(
                f"rows: {rows.dtype} {tuple(rows.shape)} given, contiguous uint8 (m, nbytes) expected"
            )
        self._out("out", out, _UINT8, rows.shape[1])
        self._backend.majority(rows, out)

    def scatter_add(self, indices: Array, values: Array, weight: float, out: Array) -> None:
        k = self._array("indices", indices, _INT32)
        self._array("values", values, _FLOAT32, k)
        self._out("out", out, _FLOAT32)
        self._backend.scatter_add(indices, values, weight, out)

    def merge_add(
        self,
        a_indices: Array,
        a_values: Array,
        b_indices: Array,
        b_values: Array,
        indices: Array,
        values: Array,
    ) -> int:
        a, b = self._array("a_indices", a_indices, _INT32), self._array("b_indices", b_indices, _INT32)
        self._array("a_values", a_values, _FLOAT32, a)
        self._array("b_values", b_values, _FLOAT32, b)
        self._out("indices", indices, _INT32, a + b)
        self._out("values", values, _FLOAT32, a + b)
        return self._backend.merge_add(a_indices, a_values, b_indices, b_values, indices, values)

    def add_quantize(
        self,
        g: Array,
        e: Array | None,
        c: Array | None,
        width: int,
        block: int,
        key: int,
        codes: Array,
        scales: Array,
    ) -> None:
        n = self._update(g, e, c)
        self._quantized(n, width, block, self._out, codes, scales)
        if not 0 <= key < 2**64:
            raise CodecError(f"key: {key} given, 64 bits expected")
        self._backend.add_quantize(g, e, c, width, block, key, codes, scales)

    def add_dequantized(
        self, codes: Array, scales: Array, width: int, block: int, weight: float, out: Array
    ) -> None:
        self._quantized(self._out("out", out, _FLOAT32), width, block, self._array, codes, scales)
        self._backend.add_dequantized(codes, scales, width, block, weight, out)

    def encode_gaps(self, indices: Array, out: Array) -> int:
        k = self._array("indices", indices, _INT32)
        self._out("out", out, _UINT8, 5 * k)
        return self._backend.encode_gaps(indices, out)

    def decode_gaps(self, code: Array, n: int, indices: Array) -> None:
        self._array("code", code, _UINT8)
        self._out("indices", indices, _INT32)
        self._backend.decode_gaps(code, n, indices)

    def encode_mask(self, indices: Array, mask: Array) -> None:
        self._array("indices", indices, _INT32)
        self._out("mask", mask, _UINT8)
        self._backend.encode_mask(indices, mask)

    def decode_mask(self, mask: Array, n: int, indices: Array) -> None:
        self._array("mask", mask, _UINT8, -(-n // 8))
        self._out("indices", indices, _INT32)
        self._backend.decode_mask(mask, n, indices)

    def _update(self, g: Array, e: Array | None, c: Array | None) -> int:
        n = self._array("update", g, _FLOAT32)
        if e is not None:
            self._array("residual", e, _FLOAT32, n)
        if c is not None:
            self._out("next residual", c, _FLOAT32, n)
            if c is e:
                raise CodecError("next residual: the memory of the residual itself; it must stay as it was")
        if n > MAX_N:
            raise CodecError(f"update: {n} elements, at most {MAX_N}: split the buffer")
        return n

    def _quantized(
        self, n: int, width: int, block: int, look: Callable[..., int], codes: Array, scales: Array
    ) -> None:
        if width not in WIDTHS:
            raise CodecError(f"width: {width} bits given, 2 to 8 expected")
        if not 8 <= block <= MAX_N or block % 8:
            raise CodecError(f"block: {block} given, a multiple of 8 of 8 to {MAX_N} expected")
        look("codes", codes, _UINT8, -(-n // 8) * width)
        look("scales", scales, _FLOAT32, -(-n // block))

    def _out(self, what: str, x: Any, dtype: np.dtype[Any], size: int | None = None) -> int:
        """The same of what is to be written."""
        found: int
        if type(x) is np.ndarray and x.dtype is dtype and x.ndim == 1 and x.flags.carray:
            found = x.size
            if size is None or size == found:
                return found
        elif type(x) is np.ndarray and not x.flags.writeable:
            raise CodecError(f"{what}: a read-only array given, it is to be written")
        return self._array(what, x, dtype, size)

    def _array(self, what: str, x: Any, dtype: np.dtype[Any], size: int | None = None) -> int:
        found: int
        # The usual case with as few steps as can be: a call has seven arrays and 20 microseconds.
        if type(x) is self._kind and x.dtype is dtype and x.ndim == 1 and x.flags.c_contiguous:
            found = x.size
            if size is None or size == found:
                return found
        self._own(what, x)
        if x.ndim != 1 or x.dtype != dtype or not x.flags.c_contiguous or size not in (None, x.size):
            length = "(n,)" if size is None else f"({size},)"
            raise CodecError(
                f"{what}: {x.dtype} {tuple(x.shape)}{'' if x.flags.c_contiguous else ' with gaps'} given, "
                f"contiguous {dtype} {length} expected"
            )
        return int(x.size)

    def _own(self, what: str, x: Any) -> None:
        if not isinstance(x, self._kind):
            raise CodecError(f"{what}: {type(x).__name__} given, {self.name} takes {self._kind.__name__}")
