"""What the plots share: style, axes, legends, bins, and writing a figure as SVG or PNG."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.errors import HpcFlError
from hpc_fl.report import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH: Final = 11.3
"""Inches of a figure that fills the page."""
_MOST_BARS: Final = 120
_MOST_POINTS: Final = 500
_FEW_POINTS: Final = 45


@contextmanager
def plotting() -> Iterator[None]:
    """Set the style of all plots made and written in this block.

    Raises HpcFlError when matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
    except ImportError as error:
        raise HpcFlError('a report needs the package matplotlib: pip install "hpc_fl[report]"') from error
    settings: Any = style.PLOT
    with rc_context(settings):
        yield


def grid(
    rows: int, columns: int, height: float, *, width: float = WIDTH, shared: bool = True
) -> "tuple[Figure, list[list[Axes]]]":
    """Return a figure of `width` x `height` inches and its axes by row and column.

    shared: the axes of a row have one y scale.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Any = figure.subplots(
        rows, columns, squeeze=False, sharex="col", sharey="row" if shared else "none"
    )
    return figure, [list(row) for row in axes]


def whole_rounds(axis: "Axes") -> None:
    """Put the ticks of the x axis at whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def legend(axis: "Axes") -> None:
    """Name the lines inside the axes, where there is most room; a single line is named by its axis."""
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(loc="best")


def legend_beside(axis: "Axes") -> None:
    """Name the parts of a stack to the right of the axes, in the order in which they are stacked."""
    axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), reverse=True)


def marker(points: Sequence[float]) -> str:
    """Dots while they can be told apart; a single point would be invisible without one."""
    return "o" if len(points) <= _FEW_POINTS else ""


def stack_colours(count: int) -> list[str]:
    """Colours for the parts of a stack; they repeat when there are more parts than colours."""
    return [style.STACK[place % len(style.STACK)] for place in range(count)]


def bins(count: int, most: int = _MOST_BARS) -> list[tuple[int, int]]:
    """Cut `count` places into at most `most` equal ranges [begin, end); by default as many bars as can be
    seen.
    """
    size = -(-count // most)
    return [(begin, min(begin + size, count)) for begin in range(0, count, size)]


def means(values: Sequence[float], ranges: Sequence[tuple[int, int]]) -> list[float]:
    """Return the mean of the values in each range."""
    return [sum(values[begin:end]) / (end - begin) for begin, end in ranges]


def thinned(*columns: Sequence[float]) -> list[list[float]]:
    """Return columns of one length as means over consecutive places, when they have more points than can be
    seen.
    """
    ranges = bins(len(columns[0]), _MOST_POINTS)
    return [means(column, ranges) for column in columns]


def svg(figure: "Figure", name: str) -> str:
    """Return the figure as an <svg> element whose ids begin with `name`, unlike those of other figures."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    for before in ('id="', "url(#", 'href="#'):
        text = text.replace(before, f"{before}{name}-")
    return text[text.index("<svg") :]


def write_png(figure: "Figure", path: Path) -> None:
    """Write the figure at twice the resolution of a common screen."""
    figure.savefig(path, format="png", dpi=192)
