"""One bit an element and a scale for each segment: what 1-bit and sign codecs share.

Payload: scales (S,) float32, bits (ceil(n / 8),) uint8; meta is the layout: (block,) for segments of that
many elements, the last one shorter, or (0, length, length, ...).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpc_fl.backends import Array, backend_of
from hpc_fl.compression.arrays import as_array, brought, chunks
from hpc_fl.compression.base import Inputs
from hpc_fl.compression.codec import Kept
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reading, parts_of, require, require_scales

Layout = tuple[int, ...]
"""(block,) or (0, length, length, ...): what a payload's meta holds."""


@dataclass(frozen=True)
class Signs:
    """``scales`` (S,), the mean magnitude of each segment, and ``bits`` (ceil(n / 8),)."""

    scales: Array
    bits: Array


def pack(g: Array, before: Inputs | None, layout: Layout) -> Signs:
    """The signs of g, or of g + what was kept back, which then is written to c as it is.

    ``before.kept`` has the residual as ``residual`` less the ``scales`` with its signs: it is formed here.
    """
    backend, bounds = backend_of(g), brought(bounds_of(layout, g.size), g)
    scales, bits = backend.empty(bounds.size - 1, "float32"), backend.empty(-(-g.size // 8), "uint8")
    e, c, e_scales = None, None, None
    if before is not None:
        e, c, e_scales = before.e, before.c, before.kept.get("scales")
    backend.add_sign(g, e, e_scales, c, bounds, bits, scales)
    backend.check()
    return Signs(scales, bits)


def pack_sum(g: Array, e: Array, layout: Layout) -> Signs:
    """The signs of g + e, of which nothing is kept."""
    backend, bounds = backend_of(g), brought(bounds_of(layout, g.size), g)
    scales, bits = backend.empty(bounds.size - 1, "float32"), backend.empty(-(-g.size // 8), "uint8")
    none = backend.empty(bounds.size - 1, "float32")
    none.fill(0)
    backend.add_sign(g, e, none, None, bounds, bits, scales)
    backend.check()
    return Signs(scales, bits)


def settle(kept: Kept, layout: Layout) -> None:
    """The residual less its scales, formed in place; the scales are then 0."""
    c, scales = as_array(kept["residual"]), as_array(kept["scales"])
    backend_of(c).sign_residual(c, brought(bounds_of(layout, c.size), c), scales, c)
    scales.fill(0)


def segments_in(layout: Layout, n: int) -> int:
    """How many segments n elements have."""
    return -(-n // layout[0]) if layout[0] else len(layout) - 1


def longest(layout: Layout, n: int) -> int:
    """The length of the longest segment."""
    return min(layout[0], n) if layout[0] else max(layout[1:])


def bounds_of(layout: Layout, n: int) -> Array:
    """Where the segments begin, and n: int64 (S + 1,), for a layout that fits n."""
    if layout[0]:
        return np.minimum(np.arange(segments_in(layout, n) + 1, dtype=np.int64) * layout[0], n)
    return np.cumsum((0, *layout[1:]), dtype=np.int64)


def read_signs(payload: Payload, like: Array) -> Reading:
    """The reading of a payload of this kind."""
    n, layout = payload.n, payload.meta
    by_block = len(layout) == 1 and 0 < layout[0] < 2**63
    by_length = len(layout) > 1 and layout[0] == 0 and sum(layout[1:]) == n
    require(by_block or by_length, payload, f"the segments {layout[:8]} do not make up the buffer")
    scales, bits = parts_of(payload, like, ("float32", segments_in(layout, n)), ("uint8", -(-n // 8)))
    require_scales(scales, payload)
    host_bounds = bounds_of(layout, n)
    bounds = brought(host_bounds, like)

    def add(weight: float, out: Array) -> None:
        backend_of(out).add_signs(bits, bounds, scales, weight, out)

    def write(out: Array) -> None:
        for piece in chunks(n):  # so that the zeros are still in the cache
            part, part_bits = out[piece], bits[piece.start // 8 : -(-piece.stop // 8)]
            part.fill(0)
            whole = brought(np.array([0, part.size], np.int64), like)
            backend_of(out).add_signs(part_bits, whole, scales, 1.0, part)

    wholes: dict[int, Array] = {}

    def add_part(weight: float, start: int, out: Array) -> None:
        stop = start + out.size
        if scales.size == 1:
            whole = wholes.get(out.size)
            if whole is None:
                whole = wholes[out.size] = brought(np.array([0, out.size], np.int64), like)
            backend_of(out).add_signs(bits[start // 8 : -(-stop // 8)], whole, scales, weight, out)
            return
        first, last = np.searchsorted(host_bounds, start, "right") - 1, np.searchsorted(host_bounds, stop)
        part = brought(np.clip(host_bounds[first : last + 1], start, stop) - start, like)
        part_bits = bits[start // 8 : -(-stop // 8)]
        backend_of(out).add_signs(part_bits, part, scales[first:last], weight, out)

    return Reading(add, write if scales.size == 1 else None, add_part=add_part)
