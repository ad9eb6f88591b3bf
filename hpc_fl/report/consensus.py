"""The plot of a run in which every party keeps its own model: how far apart they are, how good each is."""

from typing import TYPE_CHECKING, Final

from hpc_fl.report import style
from hpc_fl.report.canvas import grid, legend, marker, thinned, whole_rounds
from hpc_fl.report.folder import RunFolder
from hpc_fl.report.spread import draw_spread, spreads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS: Final = (("accuracy", "model_accuracy", "min"), ("loss", "model_loss", "max"))
"""The consensus model's score, those of the parties' own models, and their worse end; shown is the first that
a run has.
"""


def consensus(run: RunFolder) -> "Figure | None":
    """Consensus distance against rounds, and beside it the scores of the parties' own models."""
    if not run.series("consensus_distance")[1]:
        return None
    shown = next((panel for panel in _PANELS if spreads(run, panel[1])), None)
    figure, axes = grid(1, 2 if shown else 1, height=3.4, shared=False)
    _distance(axes[0][0], run)
    if shown is not None:
        key, models, worst = shown
        axis = axes[0][1]
        draw_spread(axis, spreads(run, models), "model", worst=worst)
        places, values = run.series(key)
        at, values = thinned([run.rounds[place] for place in places], values)
        axis.plot(
            at, values, "-", color=style.INK, marker=marker(at), markersize=2.5, label="consensus model"
        )
        axis.set(xlabel="round", ylabel=f"{key} on held-out samples")
        whole_rounds(axis)
        legend(axis)
    return figure


def _distance(axis: "Axes", run: RunFolder) -> None:
    """Logarithmic, since it shrinks by a factor a round; distances of 0 have no place there."""
    places, values = run.series("consensus_distance")
    x, y = thinned([run.rounds[place] for place in places], values)
    axis.plot(x, y, color=style.BLUE, marker=marker(x), markersize=3.5)
    if any(value > 0 for value in y):
        axis.set_yscale("log", nonpositive="mask")
    axis.set(xlabel="round", ylabel="consensus distance")
    whole_rounds(axis)
