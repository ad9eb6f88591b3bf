"""The kernels' one door: what each of them does, whatever runs it.

A backend works on arrays of its own kind: NumPy's on the CPU, CuPy's on a GPU. Flat buffers are contiguous
float32 (n,); outputs are given by the caller, so that no call allocates what it returns. ``reference`` is the
definition; ``native`` and ``cuda`` give the same bits, except for means of magnitudes, which are summed in
another order (within 1e-6 of the value).

Common to all that read an update ``g``:

- ``e``, where there is one, is what error feedback kept back; None means zeros. c = g + e, in float32.
- ``c`` receives what is to be kept back next. It may be the memory of ``g``, never that of ``e``: when ``g``
  or ``e`` holds a NaN or an infinity, or their sum overflows, :class:`NotFiniteError` is raised and ``e`` is
  as it was. What the outputs hold then is not defined.
- Magnitudes are compared as the 31 bits below the sign, so that subnormals count; ties go to the lower index.
- Sizes and dtypes are checked by :mod:`hpc_fl.backends.checks`, for all backends alike.
"""

from __future__ import annotations

from typing import Any, Protocol

Array = Any
"""A NumPy or CuPy array: each backend takes its own kind."""


class Backend(Protocol):
    """The kernels. Indices are int32, bit masks and codes uint8, bounds int64, all else float32."""

    @property
    def name(self) -> str: ...

    def empty(self, size: int, dtype: str) -> Array:
        """A new array that this backend can use; its memory is taken when it is written."""
        ...

    def check(self) -> None:
        """Raises the first error that calls since the last check have found.

        The CPU raises at the call itself. A GPU only notes what it finds, so that no call waits for it:
        :class:`NotFiniteError` and :class:`WireError` come here, or from a call that returns an int.
        """
        ...

    def add_topk(
        self,
        g: Array,
        e: Array | None,
        c: Array | None,
        indices: Array,
        values: Array,
        hint: float | Array = 0.0,
    ) -> float | Array:
        """The k = len(indices) elements of g + e of largest magnitude, ascending by index.

        ``c``: g + e with those set to 0; None where nothing is kept back. Returns the smallest magnitude
        taken (infinity where k = 0), on a GPU as a 0-d array there. That of an earlier call on similar data,
        given as ``hint``, saves a pass over the data when it is close, and never changes the result.
        """
        ...

    def add_threshold(
        self, g: Array, e: Array | None, c: Array | None, tau: float, indices: Array, values: Array
    ) -> int:
        """The elements of g + e whose magnitude is greater than ``tau``, ascending by index; their number.

        ``indices`` and ``values`` have room for n. ``c``: as in :meth:`add_topk`.
        """
        ...

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
        """One bit an element, and a scale for each segment bounds[s]..bounds[s + 1].

        ``e`` and ``e_scales`` are ``c`` and ``scales`` of the call before: what was kept back is formed only
        now, as e - copysign(scale, e), so that c = g + (e - copysign(scale, e)) in one pass. ``bits``
        (ceil(n / 8)): bit i % 8 of byte i // 8 is the sign bit of c[i]; the bits past n are 0. ``scales``:
        the mean of \\|c\\| over the segment, 0 for an empty one. Bounds ascend from 0 to n: the CPU looks,
        and raises :class:`CodecError`; a GPU, which would have to wait, trusts them.
        """
        ...

    def sign_residual(self, c: Array, bounds: Array, scales: Array, out: Array) -> None:
        """What :meth:`add_sign` keeps back, formed: out = c - copysign(scale, c). ``out`` may be ``c``."""
        ...

    def add_signs(self, bits: Array, bounds: Array, scales: Array, weight: float, out: Array) -> None:
        """out += weight * scale, with the sign of the bit. The product is rounded to float32 first."""
        ...

    def majority(self, rows: Array, out: Array) -> None:
        """``rows`` (m, nbytes) of bits -> ``out`` (nbytes): set where more than half of the m are."""
        ...

    def scatter_add(self, indices: Array, values: Array, weight: float, out: Array) -> None:
        """out[indices] += weight * values.

        Raises :class:`WireError`, with ``out`` untouched, when an index is not below n or not above the one
        before it, or a value is not finite.
        """
        ...

    def merge_add(
        self,
        a_indices: Array,
        a_values: Array,
        b_indices: Array,
        b_values: Array,
        indices: Array,
        values: Array,
    ) -> int:
        """The union of two ascending sparse buffers, summed where both have an element (a + b); its size.

        ``indices`` and ``values`` have room for both.
        """
        ...

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
        """``width`` (2 to 8) bits an element, stochastically rounded, a scale for each ``block`` elements.

        scale = the largest \\|c\\| of the block; unit = scale / L with L = 2^(width-1) - 1 levels; inverse =
        min(L / scale, the largest float); q = min(L, floor(\\|c\\| * inverse + u)), all in float32, with u =
        :func:`uniform` (key, i). The code is q, with bit width - 1 set where c's sign bit is. Eight codes
        fill ``width`` bytes, the first in the lowest bits; ``block`` is a multiple of 8 below 2^31; codes
        past n are 0. ``c`` receives c - copysign(q * unit, c).
        """
        ...

    def add_dequantized(
        self, codes: Array, scales: Array, width: int, block: int, weight: float, out: Array
    ) -> None:
        """out += weight * (q * unit) with the code's sign: the inverse of :meth:`add_quantize`."""
        ...

    def encode_gaps(self, indices: Array, out: Array) -> int:
        """Ascending indices -> the gaps i[j] - i[j - 1] - 1 (i[-1] = -1), 7 bits a byte; the bytes used.

        LEB128: the lowest 7 bits first, bit 7 set where more follow. ``out`` has room for 5 bytes an index.
        """
        ...

    def decode_gaps(self, code: Array, n: int, indices: Array) -> None:
        """The inverse of :meth:`encode_gaps` for k = len(indices).

        Raises :class:`WireError`, with what ``indices`` hold undefined, for a code that has not exactly k
        gaps, or an index that is not below n.
        """
        ...

    def encode_mask(self, indices: Array, mask: Array) -> None:
        """Ascending indices -> ``mask`` (ceil(n / 8)) with their bits set; the others are cleared."""
        ...

    def decode_mask(self, mask: Array, n: int, indices: Array) -> None:
        """The inverse of :meth:`encode_mask`.

        Raises :class:`WireError` where the mask has not exactly len(indices) bits, or one past n.
        """
        ...
