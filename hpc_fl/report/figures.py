"""The plots of a report: each takes a run and returns a figure, or None when the run has nothing to plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hpc_fl.report import style
from hpc_fl.report.canvas import (
    WIDTH,
    bins,
    grid,
    legend,
    legend_beside,
    marker,
    means,
    stack_colours,
    thinned,
    whole_rounds,
)
from hpc_fl.report.folder import RunFolder
from hpc_fl.report.spread import draw_spread, spreads
from hpc_fl.telemetry.units import byte_unit, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Line:
    """A key of the records and how it is drawn."""

    key: str
    label: str
    colour: str
    dashes: str


_PANELS: Final = {
    "test accuracy": (_Line("accuracy", "test", style.BLUE, "-"),),
    "loss": (
        _Line("train_loss", "training (cohort)", style.VERMILION, "--"),
        _Line("loss", "test", style.BLUE, "-"),
    ),
}


def quality_against_cost(run: RunFolder) -> "Figure | None":
    """Accuracy and loss against rounds, bytes sent and wall time."""
    panels = _panels(run)
    if not panels:
        return None
    bytes_per, bytes_name = byte_unit(run.sent[-1])
    seconds_per, seconds_name = time_unit(run.elapsed[-1])
    costs = (
        ("round", run.rounds),
        (f"sent by all ranks together [{bytes_name}]", [value / bytes_per for value in run.sent]),
        (f"wall time [{seconds_name}]", [value / seconds_per for value in run.elapsed]),
    )
    figure, axes = grid(len(panels), len(costs), height=2.4 * len(panels) + 0.4)
    for row, label in zip(axes, panels, strict=True):
        for axis, (_, x) in zip(row, costs, strict=True):
            _draw(axis, run, label, x)
        row[0].set_ylabel(label)
        legend(row[0])
    for axis, (cost, _) in zip(axes[-1], costs, strict=True):
        axis.set_xlabel(cost)
    whole_rounds(axes[-1][0])
    return figure


def curves(run: RunFolder) -> "Figure | None":
    """Accuracy and loss against rounds, side by side: the one picture of a run."""
    panels = _panels(run)
    if not panels:
        return None
    figure, axes = grid(1, len(panels), height=3.3, width=4.7 * len(panels), shared=False)
    for axis, label in zip(axes[0], panels, strict=True):
        _draw(axis, run, label, run.rounds)
        axis.set(xlabel="round", ylabel=label)
        whole_rounds(axis)
        legend(axis)
    return figure


def party_spread(run: RunFolder) -> "Figure | None":
    """How far apart the parties' accuracies lie, over the rounds."""
    rows = spreads(run, "party_accuracy")
    if not rows:
        return None
    figure, axes = grid(1, 1, height=3.2)
    axis = axes[0][0]
    draw_spread(axis, rows, "party")
    axis.set(xlabel="round", ylabel="accuracy on own samples")
    whole_rounds(axis)
    legend_beside(axis)
    return figure


def time_by_phase(run: RunFolder) -> "Figure | None":
    """Seconds of each round, stacked by phase."""
    phases = [phase for phase, seconds in run.totals.phase_seconds.items() if seconds > 0]
    if not phases:
        return None
    ranges = bins(len(run.records))
    stacks = {p: means([r.get("seconds", {}).get(p, 0.0) for r in run.records], ranges) for p in phases}
    whole = means([record.get("round_seconds", 0.0) for record in run.records], ranges)
    seconds_per, unit = (1e-3, "ms") if max(whole) < 1 else (1.0, "s")
    figure, axes = grid(1, 1, height=3.2)
    axis = axes[0][0]
    # A bar stands for its rounds: centred on them, as wide as they are many.
    x = [(run.rounds[begin] + run.rounds[end - 1]) / 2 for begin, end in ranges]
    width = 0.84 * ranges[0][1]
    _stack(axis, x, {name: [v / seconds_per for v in values] for name, values in stacks.items()}, width)
    scaled = [value / seconds_per for value in whole]
    axis.plot(x, scaled, linestyle="", marker="_", color=style.INK, markeredgewidth=1.5, label="whole round")
    axis.set(xlabel="round", ylabel=f"time of a round [{unit}]")
    legend_beside(axis)
    return figure


def bytes_by_rank(run: RunFolder) -> "Figure | None":
    """Bytes that each rank sent in all rounds, stacked by kind of traffic."""
    by_rank, by_kind = run.totals.bytes_by_rank, run.totals.bytes_sent
    if not any(by_rank):
        return None
    size, unit = byte_unit(max(by_rank))
    ranks = len(by_rank)
    stacks = {
        kind: [value / size for value in by_kind[kind]] + [0.0] * (ranks - len(by_kind[kind]))
        for kind in sorted(by_kind, key=lambda kind: -sum(by_kind[kind]))
    }
    figure, axes = grid(1, 1, height=3.0, width=min(WIDTH, 3.4 + 0.5 * ranks))
    axis = axes[0][0]
    _stack(axis, [float(rank) for rank in range(ranks)], stacks, 0.6 if ranks < 50 else 1.0)
    axis.set(xlabel="rank", ylabel=f"sent in the whole run [{unit}]")
    axis.set_xlim(-0.7, ranks - 0.3)
    legend_beside(axis)
    return figure


def _panels(run: RunFolder) -> list[str]:
    """The labels of the panels that have something to show."""
    return [label for label, lines in _PANELS.items() if any(run.series(line.key)[1] for line in lines)]


def _draw(axis: "Axes", run: RunFolder, label: str, x: Sequence[float]) -> None:
    for line in _PANELS[label]:
        places, values = run.series(line.key)
        if values:
            at, values = thinned([x[place] for place in places], values)
            dots = marker(at)
            axis.plot(
                at, values, line.dashes, color=line.colour, marker=dots, markersize=3.5, label=line.label
            )


def _stack(axis: "Axes", x: list[float], stacks: dict[str, list[float]], width: float) -> None:
    bottom = [0.0] * len(x)
    for (name, heights), colour in zip(stacks.items(), stack_colours(len(stacks)), strict=True):
        axis.bar(x, heights, width, bottom, color=colour, label=name)
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    axis.grid(visible=False, axis="x")
    whole_rounds(axis)
