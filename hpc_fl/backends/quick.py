"""The native kernels by a shorter way: on few elements, Python's look at the arguments is most of a call."""

from __future__ import annotations

from struct import error as NotPacked  # noqa: N812
from typing import Final

import numpy as np

from hpc_fl.backends.backend import Array
from hpc_fl.backends.checks import Checked
from hpc_fl.backends.native import Native, refuse_spoilt

_NOT_FINITE: Final = -1
_UNUSUAL: Final = -5
"""As in kernels/cpu/parts.h."""


class Quick(Checked):
    """:class:`Checked` native kernels on NumPy arrays, which first have the library look at the arguments.

    It looks at the array objects themselves, for the same as :class:`Checked` does (kernels/cpu/quick.cpp).
    What it does not take as it is has changed nothing, and goes the long way: that says what is wrong, or
    finds that it will do (a subclass of ndarray).
    """

    def __init__(self, native: Native) -> None:
        super().__init__(native, np.ndarray)
        self._isa, self._most = native.isa_number, native.most_threads
        self._topk, self._pack_topk = native.quick["add_topk"]
        self._threshold, self._pack_threshold = native.quick["add_threshold"]
        self._sign, self._pack_sign = native.quick["add_sign"]
        self._residual, self._pack_residual = native.quick["sign_residual"]
        self._signs, self._pack_signs = native.quick["add_signs"]
        self._scatter, self._pack_scatter = native.quick["scatter_add"]
        self._quantize, self._pack_quantize = native.quick["add_quantize"]
        self._dequantize, self._pack_dequantize = native.quick["add_dequantized"]

    def add_topk(
        self,
        g: Array,
        e: Array | None,
        c: Array | None,
        indices: Array,
        values: Array,
        hint: float | Array = 0.0,
    ) -> float | Array:
        smallest = self._topk(
            self._pack_topk(self._isa, self._most(), hint, id(g), id(e), id(c), id(indices), id(values))
        )
        if smallest == _UNUSUAL:
            return super().add_topk(g, e, c, indices, values, hint)
        if smallest < 0:
            refuse_spoilt(_NOT_FINITE)
        return smallest

    def add_threshold(
        self, g: Array, e: Array | None, c: Array | None, tau: float, indices: Array, values: Array
    ) -> int:
        count = self._threshold(
            self._pack_threshold(self._isa, self._most(), tau, id(g), id(e), id(c), id(indices), id(values))
        )
        if count == _UNUSUAL:
            return super().add_threshold(g, e, c, tau, indices, values)
        refuse_spoilt(count)
        return count

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
        done = self._sign(
            self._pack_sign(
                self._isa, self._most(), id(g), id(e), id(c), id(bounds), id(e_scales), id(bits), id(scales)
            )
        )
        if done == _NOT_FINITE:
            refuse_spoilt(done)
        elif done:
            super().add_sign(g, e, e_scales, c, bounds, bits, scales)

    def sign_residual(self, c: Array, bounds: Array, scales: Array, out: Array) -> None:
        if self._residual(
            self._pack_residual(self._isa, self._most(), id(c), id(bounds), id(scales), id(out))
        ):
            super().sign_residual(c, bounds, scales, out)

    def add_signs(self, bits: Array, bounds: Array, scales: Array, weight: float, out: Array) -> None:
        if self._signs(
            self._pack_signs(self._isa, self._most(), weight, id(out), id(bits), id(bounds), id(scales))
        ):
            super().add_signs(bits, bounds, scales, weight, out)

    def scatter_add(self, indices: Array, values: Array, weight: float, out: Array) -> None:
        if self._scatter(self._pack_scatter(self._most(), weight, id(indices), id(values), id(out))):
            super().scatter_add(indices, values, weight, out)

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
        try:
            done = self._quantize(
                self._pack_quantize(
                    self._isa, self._most(), width, block, key, id(g), id(e), id(c), id(codes), id(scales)
                )
            )
        except NotPacked:  # numbers that no C type has
            done = _UNUSUAL
        if done == _UNUSUAL:
            super().add_quantize(g, e, c, width, block, key, codes, scales)
        else:
            refuse_spoilt(done)

    def add_dequantized(
        self, codes: Array, scales: Array, width: int, block: int, weight: float, out: Array
    ) -> None:
        try:
            done = self._dequantize(
                self._pack_dequantize(
                    self._isa, self._most(), width, block, weight, id(out), id(codes), id(scales)
                )
            )
        except NotPacked:
            done = _UNUSUAL
        if done:
            super().add_dequantized(codes, scales, width, block, weight, out)
