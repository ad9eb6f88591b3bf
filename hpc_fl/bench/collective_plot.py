"""The picture of ``hpc-fl bench collectives``: how long every scheme takes, and bytes over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hpc_fl.bench.collective_cases import CASES, PEERS
from hpc_fl.bench.collective_records import FORMULA
from hpc_fl.bench.record import Record
from hpc_fl.errors import HpcFlError
from hpc_fl.report import style
from hpc_fl.report.canvas import grid, plotting, stack_colours, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT: Final = 4.2


def draw(records: Sequence[Record], path: Path) -> None:
    """Writes a PNG: for each n, P and place a panel of seconds; last, bytes by P where several were measured.

    Raises :class:`HpcFlError` without matplotlib, and where the file cannot be written.
    """
    timed = [record for record in records if record.yardstick in PEERS and record.unit == "s"]
    timed = timed or [record for record in records if record.unit == "s"]
    panels = list(dict.fromkeys(_where(record) for record in timed))
    by_ranks = [record for record in records if record.yardstick == FORMULA]
    with plotting():
        figure, axes = grid(len(panels) + 1, 1, _HEIGHT * (len(panels) + 1), width=9.0, shared=False)
        for (axis,), panel in zip(axes, panels, strict=False):
            _seconds(axis, panel, [record for record in timed if _where(record) == panel])
        _bytes(axes[-1][0], by_ranks)
        try:
            write_png(figure, path)
        except OSError as error:
            raise HpcFlError(f"{path}: cannot be written ({error.strerror})") from error


def _name(record: Record) -> str:
    return record.case.partition(",")[0]


def _where(record: Record) -> str:
    return record.case.partition(", ")[2]


def _seconds(axis: Axes, title: str, records: Sequence[Record]) -> None:
    took = {_name(record): record.seconds for record in records}
    axis.barh(list(took), list(took.values()), color=style.BLUE)
    axis.set_xscale("log")
    axis.invert_yaxis()
    beside = {record.yardstick: record.yardstick_seconds for record in records if record.yardstick_seconds}
    for (peer, seconds), colour in zip(beside.items(), stack_colours(7)[1:], strict=False):
        axis.axvline(seconds, color=colour, label=peer)
    axis.set_title(title)
    axis.set_xlabel("seconds")
    if beside:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _bytes(axis: Axes, records: Sequence[Record]) -> None:
    """Bytes an element, of the smallest n, which is what every number of ranks was measured with."""
    least = min((record.n for record in records), default=0)
    names = [name for name in CASES if any(_name(record) == name for record in records)]
    for name, colour in zip(names, stack_colours(len(names)), strict=True):
        points = sorted({(r.ranks, r.seconds / r.n) for r in records if _name(r) == name and r.n == least})
        axis.plot(*zip(*points, strict=True), "o-", color=colour, label=name)
    axis.set_yscale("log")
    axis.set_title("Bytes sent per rank")
    axis.set_xlabel("ranks")
    axis.set_ylabel("bytes an element")
    if names:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
