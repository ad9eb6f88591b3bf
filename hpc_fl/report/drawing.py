"""The drawing of a topology: nodes on a circle, coloured by rank, edges as thick as their weights.

On a circle no edge passes through a third node. Node 0 is at the top, the others follow clockwise.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.report import style
from hpc_fl.report.canvas import WIDTH, grid
from hpc_fl.report.folder import RunFolder
from hpc_fl.report.topology import Edge, Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Colours = dict[int, Any]
    """By rank."""

MOST_PANELS: Final = 8
MOST_NAMED: Final = 64
"""More nodes than that have neither names nor arrows: they could not be told apart."""
MOST_ARROWS: Final = 1000
"""More edges than that are lines, whether or not they are directed."""
_MOST_LINES: Final = 4000
"""More lines than that are drawn as a picture: the page would be too heavy."""
_MARGIN: Final = 24.0
"""Points around the circle, for the names."""
_NAME: Final = 13.0
"""Points between two names."""
_LARGEST_SIDE: Final = 5.4


def topology(run: RunFolder) -> "Figure | None":
    """The graph, one panel a step."""
    found = run.topology
    if found is None:
        return None
    steps = found.steps[:MOST_PANELS]
    columns = min(len(steps), 4)
    rows = -(-len(steps) // columns)
    side = min(_LARGEST_SIDE, (WIDTH - 1.3) / columns)
    several = len(steps) > 1
    figure, axes = grid(
        rows, columns, height=(side + 0.3 * several) * rows, width=side * columns + 1.3, shared=False
    )
    circle = _Circle.fitted(found.size, side)
    colours = _colours(found)
    places = [axis for row in axes for axis in row]
    for axis in places:
        axis.set_axis_off()
    for number, (axis, edges) in enumerate(zip(places, steps, strict=False), start=1):
        _draw(axis, found, edges, circle, colours)
        if several:
            axis.set_title(f"step {number}")
    _name_ranks(figure, places, colours)
    return figure


def caption(run: RunFolder) -> str:
    """What the drawing does not show."""
    found = run.topology
    if found is None:
        return ""
    kind = "directed" if found.directed else "undirected"
    facts = [f"{found.name}: {found.size:,} nodes, {kind}"]
    if found.gap is not None:
        facts.append(f"spectral gap {found.gap:.3g}")
    if found.rounds_to_consensus is not None:
        facts.append(
            f"by it, differences are down to a thousandth after {found.rounds_to_consensus:,.0f} rounds"
        )
    text = "; ".join(facts) + ". Lines are as thick as their weights; colours are ranks."
    if len(found.steps) == 1:
        return text
    shown = min(len(found.steps), MOST_PANELS)
    if found.period is None:
        return f"{text} The first {shown} steps, which do not repeat."
    if found.period > shown:
        return f"{text} The first {shown} of the {found.period:,} steps of a period."
    return f"{text} The steps repeat after {shown}."


@dataclass(frozen=True)
class _Circle:
    """Where nodes are, in units of the circle's radius, and how large things are, in points."""

    size: int
    radius: float
    spacing: float

    @classmethod
    def fitted(cls, size: int, side: float) -> "_Circle":
        """The circle in a panel of ``side`` inches."""
        radius = 0.46 * 72 * side - _MARGIN
        return cls(size, radius, 2 * radius * math.sin(math.pi / max(size, 2)))

    @property
    def dot(self) -> float:
        """Diameter of a node."""
        return min(max(0.5 * self.spacing, 1.5), 12.0)

    def at(self, node: int, beyond: float = 0.0) -> tuple[float, float]:
        """The place of ``node``, or ``beyond`` points outside it."""
        angle, length = 2 * math.pi * node / self.size, 1 + beyond / self.radius
        return length * math.sin(angle), length * math.cos(angle)

    def named(self) -> list[int]:
        """The nodes for whose names there is room: every one, or every so many."""
        if self.size > MOST_NAMED:
            return []
        step = math.ceil(_NAME / self.spacing)
        return [node for node in range(0, self.size, step) if node == 0 or self.size - node >= step]


def _draw(
    axis: "Axes", found: Topology, edges: tuple[Edge, ...], circle: _Circle, colours: "Colours"
) -> None:
    edges = tuple(edge for edge in edges if edge.source != edge.target)
    edges = edges if found.directed else _undirected(edges)
    heaviest = max((edge.weight for step in found.steps for edge in step), default=1.0)
    thickest = min(max(min(8 * found.size / max(len(edges), 1), 0.13 * circle.spacing), 0.4), 2.4)
    widths = [max(thickest * edge.weight / heaviest, 0.3) for edge in edges]
    if found.directed and found.size <= MOST_NAMED and len(edges) <= MOST_ARROWS:
        _arrows(axis, edges, widths, circle)
    else:
        _lines(axis, edges, widths, circle)
    x, y = zip(*map(circle.at, range(found.size)), strict=True)
    axis.scatter(x, y, s=circle.dot**2, c=[colours[rank] for rank in found.ranks], zorder=3)
    for node in circle.named():
        place = circle.at(node, circle.dot / 2 + 7)
        axis.text(*place, str(node), ha="center", va="center", fontsize=8)
    reach = 1 + _MARGIN / circle.radius
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")


def _undirected(edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """Each pair once, with the mean of its weights."""
    pairs: dict[tuple[int, int], list[float]] = {}
    for j, i, weight in edges:
        pairs.setdefault((min(i, j), max(i, j)), []).append(weight)
    return tuple(Edge(*pair, sum(weights) / len(weights)) for pair, weights in pairs.items())


def _lines(axis: "Axes", edges: tuple[Edge, ...], widths: list[float], circle: _Circle) -> None:
    from matplotlib.collections import LineCollection

    segments = [(circle.at(edge.source), circle.at(edge.target)) for edge in edges]
    axis.add_collection(
        LineCollection(
            segments, linewidths=widths, colors=style.INK, alpha=0.55, rasterized=len(edges) > _MOST_LINES
        )
    )


def _arrows(axis: "Axes", edges: tuple[Edge, ...], widths: list[float], circle: _Circle) -> None:
    """An arrow for each edge; two nodes that send to each other have two curves."""
    from matplotlib.patches import FancyArrowPatch

    there = {edge[:2] for edge in edges}
    head = min(max(0.35 * circle.spacing, 3.0), 9.0)
    for edge, width in zip(edges, widths, strict=True):
        bend = 0.14 if (edge.target, edge.source) in there else 0.0
        axis.add_patch(
            FancyArrowPatch(
                circle.at(edge.source),
                circle.at(edge.target),
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>",
                mutation_scale=head,
                shrinkA=circle.dot / 2,
                shrinkB=circle.dot / 2,
                linewidth=width,
                color=style.INK,
                alpha=0.55,
                zorder=2,
            )
        )


def _colours(found: Topology) -> "Colours":
    """A colour for each rank that hosts a node: the palette's, or a scale's where there are more ranks."""
    from matplotlib import colormaps

    ranks = sorted(set(found.ranks))
    if len(ranks) <= len(style.STACK):
        return dict(zip(ranks, style.STACK, strict=False))
    scale = colormaps["viridis"]
    return {rank: scale(rank / ranks[-1]) for rank in ranks}


def _name_ranks(figure: "Figure", axes: "list[Axes]", colours: "Colours") -> None:
    """Says which colour is which rank, where there are several."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    if len(colours) > len(style.STACK):
        scale = ScalarMappable(Normalize(0, max(colours)), "viridis")
        ticks = MaxNLocator(6, integer=True)
        figure.colorbar(scale, ax=axes, label="rank", shrink=0.6, ticks=ticks)
    elif len(colours) > 1:
        dots = [
            Line2D([], [], linestyle="", marker="o", color=colour, label=f"rank {rank}")
            for rank, colour in colours.items()
        ]
        figure.legend(handles=dots, loc="outside right upper")
