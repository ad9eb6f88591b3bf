"""Numbers with their units, as people read them."""

from datetime import timedelta
from typing import Final

_BYTE_UNITS: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_TIME_UNITS: Final = ((3600.0, "h"), (60.0, "min"))
# A curve in hours or minutes is easier to read than one in seconds only when it spans several of them.
_SEVERAL: Final = 3


def byte_unit(largest: float) -> tuple[float, str]:
    """Return the decimal unit in which a number of bytes up to `largest` is read best: (bytes per unit,
    name).
    """
    return next(((size, name) for size, name in _BYTE_UNITS if largest >= size), (1.0, "B"))


def time_unit(largest: float) -> tuple[float, str]:
    """Return the unit in which a time up to `largest` seconds is read best: (seconds per unit, name)."""
    return next(((size, name) for size, name in _TIME_UNITS if largest >= _SEVERAL * size), (1.0, "s"))


def format_bytes(nbytes: float) -> str:
    """Return a number of bytes with three digits and its decimal unit: "12.3 MB"."""
    size, name = byte_unit(nbytes)
    return f"{nbytes:.0f} B" if size == 1 else f"{_three_digits(nbytes / size)} {name}"


def format_seconds(seconds: float) -> str:
    """Return a duration: "1.52 ms", "12.3 s" and, from two minutes on "0:02:05" (h:mm:ss)."""
    if seconds >= 120:
        return format_clock(seconds)
    if 0 < seconds < 0.9995:
        return f"{_three_digits(seconds * 1e3)} ms"
    return f"{_three_digits(seconds)} s"


def format_clock(seconds: float) -> str:
    """Return a duration as h:mm:ss, with days in front when there are any."""
    return str(timedelta(seconds=round(seconds)))


def _three_digits(value: float) -> str:
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
