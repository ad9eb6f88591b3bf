"""How many elements a sparse codec takes, and how a buffer is cut: parameters that several codecs share."""

from __future__ import annotations

from typing import Final

from hpc_fl.errors import CodecError

MAX_META: Final = 65535 - 8
"""Segment lengths that fit a payload, with room for what else a codec says there."""


def check_amount(name: str, ratio: float | None, k: int | None) -> None:
    """Raises :class:`CodecError` unless exactly one is given, and within its bounds."""
    if (ratio is None) == (k is None):
        raise CodecError(f"{name}: give either ratio or k (ratio = {ratio}, k = {k} given)")
    if ratio is not None and not 0 < ratio <= 1:
        raise CodecError(f"{name}: ratio = {ratio} given; above 0 and at most 1 expected")
    if k is not None and k < 0:
        raise CodecError(f"{name}: k = {k} given; 0 or more expected")


def amount(ratio: float | None, k: int | None, n: int) -> int:
    """``k``, or ``ratio`` of n rounded to the nearest, at least 1 of a buffer that is not empty.

    Raises :class:`CodecError` where k > n.
    """
    if k is None:
        return min(n, max(1, round((ratio or 0.0) * n)))
    if k > n:
        raise CodecError(f"k = {k} of a buffer of {n} elements; at most {n}")
    return k


def check_segments(name: str, segments: tuple[int, ...]) -> None:
    """Raises :class:`CodecError` for lengths that are negative, or too many for a payload."""
    if not segments or min(segments) < 0 or len(segments) > MAX_META:
        raise CodecError(f"{name}: segments are 1 to {MAX_META} lengths of 0 or more; given: {segments[:8]}")


def lengths_of(segments: tuple[int, ...] | None, n: int) -> tuple[int, ...]:
    """The lengths of the segments of n elements; one segment where None.

    Raises :class:`CodecError` where they do not sum to n.
    """
    lengths = (n,) if segments is None else segments
    if sum(lengths) != n:
        raise CodecError(f"segments sum to {sum(lengths)}, the buffer has {n} elements")
    return lengths
