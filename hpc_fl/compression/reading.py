"""A payload from a peer that may be hostile: first every field is checked, then it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpc_fl.backends import Array
from hpc_fl.compression.arrays import all_finite, as_array, as_output, brought, chunks
from hpc_fl.compression.payload import Payload
from hpc_fl.errors import WireError


@dataclass(frozen=True)
class Reading:
    """A payload found sound, brought to the device of the buffer it is for.

    ``add(weight, out)``: out += weight * the decoded buffer. ``write(out)``: out = the decoded buffer; None
    where that is ``add`` to zeros. ``indices``: int32, the elements that the payload stands for, ascending;
    None where it stands for all. ``add_part(weight, start, out)``: out += weight * the elements from
    ``start`` on, a multiple of 8; None where parts are not to be had.
    """

    add: Callable[[float, Array], None]
    write: Callable[[Array], None] | None = None
    indices: Array | None = None
    add_part: Callable[[float, int, Array], None] | None = None

    def into(self, out: Array) -> None:
        """Overwrites ``out`` with the decoded buffer."""
        if self.write is not None:
            self.write(out)
        else:
            out.fill(0)
            self.add(1.0, out)


Reader = Callable[[Payload, Array], Reading]
"""Checks a payload for a buffer like the array given (same n, same device), which is left as it is. Raises
:class:`WireError` for one that no codec of this kind can have made.
"""


def decode_with(read: Reader, payload: Payload, out: object) -> None:
    """Overwrites ``out`` (n,), any kind of buffer, by what ``read`` makes of the payload."""
    array = _home(payload, out)
    read(payload, array).into(array)


def accumulate_with(read: Reader, payload: Payload, weight: float, out: object) -> None:
    """out += weight * the decoded buffer."""
    array = _home(payload, out)
    read(payload, array).add(weight, array)


def _home(payload: Payload, out: object) -> Array:
    array = as_array(out, "output")
    if payload.n != array.size:
        raise WireError(f"payload stands for {payload.n} elements, the output has {array.size}")
    return as_output(array, payload.n)


def parts_of(payload: Payload, like: Array, *layout: tuple[str, int | None]) -> tuple[Array, ...]:
    """The payload's parts on the device of ``like``, which must have these dtypes and sizes (None: any)."""
    found = [(str(part.dtype), part.size) for part in payload.parts]
    fits = len(found) == len(layout) and all(
        dtype == expected and size in (None, given) and part.ndim == 1
        for (expected, size), (dtype, given), part in zip(layout, found, payload.parts, strict=True)
    )
    if not fits:
        raise WireError(
            f"payload of codec {payload.codec} with n = {payload.n} and meta {payload.meta[:8]} has parts "
            f"{found}, expected {list(layout)}"
        )
    return tuple(brought(part, like) for part in payload.parts)


def require(sound: bool, payload: Payload, what: str) -> None:
    """Raises :class:`WireError` unless ``sound``; ``what`` says what must hold."""
    if not sound:
        raise WireError(f"payload of codec {payload.codec} with n = {payload.n}: {what}")


def require_scales(scales: Array, payload: Payload) -> None:
    """Raises :class:`WireError` for a scale that is negative, NaN or infinite."""
    require(all_finite(scales) and not (scales < 0).any(), payload, "a scale is negative or not finite")


def require_values(values: Array, payload: Payload) -> None:
    """Raises :class:`WireError` for a value that is NaN or infinite."""
    require(all_finite(values), payload, "a value is not finite")


def plain(payload: Payload, values: Array, widen: Callable[[Array], Array]) -> Reading:
    """The reading of a value for each element: ``widen`` makes float32 of a slice of ``values``."""

    def add(weight: float, out: Array) -> None:
        for piece in chunks(payload.n):
            out[piece] += out.dtype.type(weight) * widen(values[piece])

    def write(out: Array) -> None:
        for piece in chunks(payload.n):
            out[piece] = widen(values[piece])

    def add_part(weight: float, start: int, out: Array) -> None:
        out += out.dtype.type(weight) * widen(values[start : start + out.size])

    return Reading(add, write, add_part=add_part)


def require_id(payload: Payload, codec_id: int, name: str) -> None:
    """Raises :class:`WireError` for a payload of another codec."""
    if payload.codec != codec_id:
        raise WireError(f"payload of codec {payload.codec}, {name} is {codec_id}")
