"""The kernels in NumPy: the definition that the others are held to. Slow, and meant to be read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_fl.backends.uniform import uniform
from hpc_fl.errors import CodecError, NotFiniteError, WireError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bytes = NDArray[np.uint8]
Bounds = NDArray[np.int64]


class Reference:
    """See :class:`hpc_fl.backends.backend.Backend`, whose docstrings define each function."""

    name = "reference"

    def empty(self, size: int, dtype: str) -> NDArray[Any]:
        return np.empty(size, dtype)

    def check(self) -> None:
        """Nothing is left to say: every call has raised its own."""

    def add_topk(
        self, g: Floats, e: Floats | None, c: Floats | None, indices: Ints, values: Floats, hint: float = 0.0
    ) -> float:
        total = _corrected(g, e)
        k = len(indices)
        # Stable: of equal magnitudes the lower index comes first.
        order = np.argsort(_magnitude(total).max(initial=0) - _magnitude(total), kind="stable")
        _take(total, np.sort(order[:k]), c, indices, values)
        return float(np.abs(values).min(initial=np.inf))

    def add_threshold(
        self, g: Floats, e: Floats | None, c: Floats | None, tau: float, indices: Ints, values: Floats
    ) -> int:
        total = _corrected(g, e)
        taken = np.flatnonzero(np.abs(total) > np.float32(tau))
        _take(total, taken, c, indices[: len(taken)], values[: len(taken)])
        return len(taken)

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
        if e is None or e_scales is None:
            total = _corrected(g, None)
        else:
            total = _corrected(g, e - np.copysign(_spread(e_scales, bounds, len(g)), e))
        _look_at(bounds, len(g))
        for s in range(len(scales)):
            segment = np.abs(total[bounds[s] : bounds[s + 1]])
            scales[s] = segment.mean(dtype=np.float64) if segment.size else 0
        bits[:] = np.packbits(np.signbit(total), bitorder="little")
        if c is not None:
            c[:] = total

    def sign_residual(self, c: Floats, bounds: Bounds, scales: Floats, out: Floats) -> None:
        np.subtract(c, np.copysign(_spread(scales, bounds, len(c)), c), out=out)

    def add_signs(self, bits: Bytes, bounds: Bounds, scales: Floats, weight: float, out: Floats) -> None:
        step = _spread(np.float32(weight) * scales, bounds, len(out))
        negative = np.unpackbits(bits, count=len(out), bitorder="little").astype(bool)
        out += np.where(negative, -step, step)

    def majority(self, rows: NDArray[np.uint8], out: Bytes) -> None:
        votes = np.unpackbits(rows, axis=1, bitorder="little").sum(0, dtype=np.int64)
        out[:] = np.packbits(2 * votes > len(rows), bitorder="little")

    def scatter_add(self, indices: Ints, values: Floats, weight: float, out: Floats) -> None:
        steps = np.diff(indices.astype(np.int64), prepend=-1)
        if len(indices) and (indices[-1] >= len(out) or (steps <= 0).any()):
            raise WireError(f"indices of a sparse payload must ascend within 0..{len(out) - 1}")
        if not np.isfinite(values).all():
            raise WireError("a sparse payload holds a value that is not finite")
        out[indices] += np.float32(weight) * values

    def merge_add(
        self,
        a_indices: Ints,
        a_values: Floats,
        b_indices: Ints,
        b_values: Floats,
        indices: Ints,
        values: Floats,
    ) -> int:
        union = np.union1d(a_indices, b_indices)
        total = np.empty(len(union), np.float32)
        total[np.searchsorted(union, b_indices)] = b_values
        common, in_a, in_b = np.intersect1d(a_indices, b_indices, assume_unique=True, return_indices=True)
        total[np.searchsorted(union, a_indices)] = a_values
        total[np.searchsorted(union, common)] = a_values[in_a] + b_values[in_b]
        indices[: len(union)], values[: len(union)] = union, total
        return len(union)

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
        total = _corrected(g, e)
        n, levels = len(total), np.float32(2 ** (width - 1) - 1)
        starts = np.arange(0, n, block)
        scales[:] = np.maximum.reduceat(np.abs(total), starts) if n else 0
        scale = np.repeat(scales, min(block, n))[:n]
        with np.errstate(divide="ignore", over="ignore"):
            inverse = np.minimum(levels / scale, np.finfo(np.float32).max)
        q = np.minimum(np.floor(np.abs(total) * inverse + uniform(key, 0, n)), levels)
        code = q.astype(np.uint8) | (np.signbit(total).astype(np.uint8) << np.uint8(width - 1))
        planes = (code[:, None] >> np.arange(width, dtype=np.uint8)) & np.uint8(1)
        padded = np.zeros((-(-n // 8) * 8, width), np.uint8)
        padded[:n] = planes
        codes[:] = np.packbits(padded.reshape(-1), bitorder="little")
        if c is not None:
            np.subtract(total, np.copysign(q * (scale / levels), total), out=c)

    def add_dequantized(
        self, codes: Bytes, scales: Floats, width: int, block: int, weight: float, out: Floats
    ) -> None:
        n, levels = len(out), np.float32(2 ** (width - 1) - 1)
        planes = np.unpackbits(codes, bitorder="little").reshape(-1, width)[:n]
        code = (planes << np.arange(width, dtype=np.uint8)).sum(1, dtype=np.uint8)
        q = (code & np.uint8(2 ** (width - 1) - 1)).astype(np.float32)
        value = q * (np.repeat(scales, min(block, n))[:n] / levels)
        out += np.float32(weight) * np.where(code >> np.uint8(width - 1), -value, value)

    def encode_gaps(self, indices: Ints, out: Bytes) -> int:
        gaps = np.diff(indices.astype(np.int64), prepend=-1) - 1
        if (gaps < 0).any():
            raise CodecError("indices must ascend from 0")
        used = 0
        for gap in gaps.tolist():
            rest = gap
            while rest >= 0x80:
                out[used] = rest & 0x7F | 0x80
                rest, used = rest >> 7, used + 1
            out[used] = rest
            used += 1
        return used

    def decode_gaps(self, code: Bytes, n: int, indices: Ints) -> None:
        found, gap, shift, last = 0, 0, 0, -1
        for byte in code.tolist():
            gap |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                last += gap + 1
                if found == len(indices) or last >= n:
                    raise WireError(f"gaps lead to more than {len(indices)} indices below {n}")
                indices[found] = last
                found, gap, shift = found + 1, 0, 0
            elif shift > 28:
                raise WireError("a gap takes more than 5 bytes")
        if found != len(indices) or shift:
            raise WireError(f"gaps end after {found} of {len(indices)} indices")

    def encode_mask(self, indices: Ints, mask: Bytes) -> None:
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(mask) * 8:
            raise CodecError(f"indices beyond a mask of {len(mask)} bytes")
        chosen = np.zeros(len(mask) * 8, bool)
        chosen[indices] = True
        mask[:] = np.packbits(chosen, bitorder="little")

    def decode_mask(self, mask: Bytes, n: int, indices: Ints) -> None:
        found = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        if len(found) != len(indices) or (len(found) and found[-1] >= n):
            raise WireError(f"mask has {len(found)} bits set, {len(indices)} below {n} expected")
        indices[:] = found


def _corrected(g: Floats, e: Floats | None) -> Floats:
    """g + e, finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = g.copy() if e is None else g + e
    if not np.isfinite(total).all():
        raise NotFiniteError("the update, or what was kept back of earlier ones, is not finite")
    return total


def _magnitude(x: Floats) -> NDArray[np.int64]:
    """The 31 bits below the sign, which order floats by magnitude."""
    return (x.view(np.uint32) & np.uint32(0x7FFFFFFF)).astype(np.int64)


def _take(total: Floats, taken: NDArray[Any], c: Floats | None, indices: Ints, values: Floats) -> None:
    indices[:] = taken
    values[:] = total[taken]
    if c is not None:
        c[:] = total
        c[taken] = 0


def _spread(scales: Floats, bounds: Bounds, n: int) -> Floats:
    """Each segment's scale, once for each of its elements."""
    _look_at(bounds, n)
    return np.repeat(scales, np.diff(bounds))


def _look_at(bounds: Bounds, n: int) -> None:
    whole = len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == n
    if not whole or (np.diff(bounds) < 0).any():
        raise CodecError(f"bounds must ascend from 0 to {n}")
