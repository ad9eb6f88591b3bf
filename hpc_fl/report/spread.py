"""A spread over parties against rounds: minimum, mean, maximum and deviation, as a band."""

from typing import TYPE_CHECKING, Final

from hpc_fl.report import style
from hpc_fl.report.canvas import marker, thinned
from hpc_fl.report.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[tuple[float, ...]]
"""By evaluation: round, minimum, mean, maximum, standard deviation."""

_KEYS: Final = ("min", "mean", "max", "std")


def spreads(run: RunFolder, key: str) -> Rows:
    """Return the spreads called ``key`` in the records, without those that hold a NaN or infinity."""
    found = ((record["round"], record.get(key) or {}) for record in run.records)
    return [
        (at, *(spread[name] for name in _KEYS))
        for at, spread in found
        if all(spread.get(name) is not None for name in _KEYS)
    ]


def draw_spread(axis: "Axes", rows: Rows, noun: str, *, worst: str = "min") -> None:
    """Draw the band of ``rows``, at least one; ``noun`` is what differs, ``worst`` its worse end."""
    x, low, mean, high, deviation = thinned(*zip(*rows, strict=True))
    below = [max(a, b - c) for a, b, c in zip(low, mean, deviation, strict=True)]
    above = [min(a, b + c) for a, b, c in zip(high, mean, deviation, strict=True)]
    end = {"min": low, "max": high}[worst]
    dots = marker(x)
    axis.fill_between(x, low, high, color=style.BLUE, alpha=0.13, linewidth=0, label=f"worst to best {noun}")
    axis.fill_between(x, below, above, color=style.BLUE, alpha=0.27, linewidth=0, label="mean ± 1 deviation")
    axis.plot(x, mean, color=style.BLUE, marker=dots, markersize=3.5, label="mean")
    axis.plot(x, end, "--", color=style.VERMILION, marker=dots, markersize=2.5, label=f"worst {noun}")
