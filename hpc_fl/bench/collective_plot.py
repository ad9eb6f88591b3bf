"""The picture of ``hpc-fl bench collectives``: how long every scheme takes, and bytes over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.bench.collective_cases import CASES, PEERS
from hpc_fl.bench.record import Record
from hpc_fl.errors import HpcFlError
from hpc_fl.report import style
from hpc_fl.report.canvas import plotting, stack_colours, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT: Final = 4.2
_WIDTH: Final = 8.0
_COLUMNS: Final = 2
_HEADERS: Final = 1000
"""Bytes that say no more than that ranks agreed."""
_MARKS: Final = "os^vD"
"""There are more lines than colours."""


def draw(records: Sequence[Record], path: Path) -> None:
    """Writes a PNG: for each n, P and place a panel of seconds; last, bytes by P where several were measured.

    Raises :class:`HpcFlError` without matplotlib, and where the file cannot be written.
    """
    timed = [record for record in records if record.yardstick in PEERS and record.unit == "s"]
    timed = timed or [record for record in records if record.unit == "s"]
    panels = list(dict.fromkeys(_where(record) for record in timed))
    with plotting():
        from matplotlib.figure import Figure

        rows = -(-(len(panels) + 1) // _COLUMNS)
        figure = Figure(figsize=(_WIDTH * _COLUMNS, _HEIGHT * rows), layout="constrained")
        axes: list[Any] = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
        for axis, panel in zip(axes, panels, strict=False):
            _seconds(axis, panel, [record for record in timed if _where(record) == panel])
        _bytes(axes[len(panels)], timed)
        for axis in axes[len(panels) + 1 :]:
            axis.remove()
        try:
            write_png(figure, path)
        except OSError as error:
            raise HpcFlError(f"{path}: cannot be written ({error.strerror})") from error


def _name(record: Record) -> str:
    return record.case.partition(",")[0]


def _where(record: Record) -> str:
    return record.case.partition(", ")[2]


def _seconds(axis: Axes, title: str, records: Sequence[Record]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    took = {_name(record): record.seconds for record in records}
    axis.barh(list(took), list(took.values()), color=style.BLUE)
    axis.set_xscale("log")
    # A range of less than a decade has no power of ten to be labelled.
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter("s"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.invert_yaxis()
    beside = {record.yardstick: record.yardstick_seconds for record in records if record.yardstick_seconds}
    for (peer, seconds), colour in zip(beside.items(), stack_colours(7)[1:], strict=False):
        axis.axvline(seconds, color=colour, label=peer)
    axis.set_title(title)
    if beside:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _bytes(axis: Axes, records: Sequence[Record]) -> None:
    """Bytes an element, of the n that was measured on most numbers of ranks."""
    ranks: dict[int, set[int]] = {}
    for record in records:
        ranks.setdefault(record.n, set()).add(record.ranks)
    n = max(ranks, key=lambda one: len(ranks[one]), default=0)
    # What goes through memory that the ranks share is not sent: what is left are headers.
    sent = {(_name(r), r.ranks): r.bytes / n for r in records if r.n == n and r.bytes > _HEADERS}
    names = [name for name in CASES if any(name == one for one, _ in sent)]
    for name, colour, mark in zip(names, stack_colours(len(names)), cycle(_MARKS), strict=False):
        points = sorted((count, value) for (one, count), value in sent.items() if one == name)
        axis.plot(*zip(*points, strict=True), f"{mark}-", color=colour, label=name)
    axis.set_yscale("log")
    axis.set_xticks(sorted(ranks.get(n, ())))
    axis.set_title(f"Bytes sent per rank, {n} elements")
    axis.set_xlabel("ranks")
    axis.set_ylabel("bytes an element")
    if names:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
