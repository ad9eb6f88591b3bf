"""Who holds what: the party x label matrix of a partition, as a picture or as a table for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from hpc_fl.data.partition import Partition
from hpc_fl.data.source import Int64Array, Source
from hpc_fl.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

_WRITTEN_CELLS: Final = 25
"""Parties and classes up to which the count is written into its cell."""
_DARK: Final = 0.6
"""Share of the colour scale from which black on it is hard to read."""


def label_matrix(source: Source, partition: Partition) -> Int64Array:
    """Samples by party and label, shape (parties, classes). Raises DataError without labels."""
    labels = source.labels
    if labels is None:
        raise DataError("a party x label picture needs one label per sample, which this source has not")
    classes = int(labels.max()) + 1
    return np.array([np.bincount(labels[rows], minlength=classes) for rows in partition.rows], np.int64)


def draw(matrix: Int64Array, path: str | Path) -> None:
    """Write the matrix as a picture, in the format of the suffix (.png, .svg, .pdf): colour is the number of
    samples, bars at the right are the parties' sizes. Raises DataError where matplotlib is missing.
    """
    try:
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError("a picture needs matplotlib: run `pip install matplotlib`") from error

    parties, classes = matrix.shape
    size = (min(4 + 0.35 * classes, 14), min(1.8 + 0.28 * parties, 10))
    figure = Figure(figsize=size, layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
    # By the square root, so that a few large counts do not hide the rest.
    shade = PowerNorm(0.5, vmin=0, vmax=max(int(matrix.max()), 1))
    image = cells.imshow(matrix, aspect="auto", cmap="Blues", norm=shade, interpolation="nearest")
    cells.set(xlabel="label", ylabel="party")
    cells.xaxis.get_major_locator().set_params(integer=True)
    cells.yaxis.get_major_locator().set_params(integer=True)
    if max(parties, classes) <= _WRITTEN_CELLS:
        cells.set(xticks=range(classes), yticks=range(parties))
        _write_counts(cells, matrix, shade(matrix) > _DARK)
    edges = np.arange(parties + 1) - 0.5
    bars.stairs(matrix.sum(axis=1), edges, orientation="horizontal", fill=True, color="0.6")
    bars.set(xlabel="party size", xlim=(0, None))
    bars.tick_params(labelleft=False, left=False)
    bars.spines[["top", "right"]].set_visible(False)
    figure.colorbar(image, ax=bars, label="samples per party and label")
    figure.savefig(path, dpi=150)


def table(matrix: Int64Array, *, max_parties: int = 20, width: int = 80) -> Table:
    """The matrix as a rich table for a terminal of `width` columns: the first parties, as many labels as fit,
    the sum of the labels left out, and one line on the parties left out.
    """
    from rich import box
    from rich.table import Table

    parties, classes = matrix.shape
    shown = _labels_that_fit(matrix, width)
    title = f"{parties} parties, {int(matrix.sum())} samples"
    made = Table(title=title, title_justify="left", box=box.SIMPLE, padding=0)
    others = [f"{shown}..{classes - 1}"] if classes > shown else []
    for heading in ("party", "samples", "labels", *map(str, range(shown)), *others):
        made.add_column(heading, justify="right", no_wrap=True)
    for party, counts in enumerate(matrix[:max_parties]):
        cells = [str(count) if count else "." for count in counts[:shown].tolist()]
        rest = [str(counts[shown:].sum())] if others else []
        made.add_row(str(party), str(counts.sum()), str(np.count_nonzero(counts)), *cells, *rest)
    if parties > max_parties:
        sizes = matrix[max_parties:].sum(axis=1)
        extent = f"{sizes.min()} to {sizes.max()} samples, {sizes.mean():.1f} on average"
        made.caption = f"{parties - max_parties} more parties with {extent}"
    return made


def _labels_that_fit(matrix: Int64Array, width: int) -> int:
    """How many label columns fit beside party, samples, labels and the sum of the other labels."""
    parties, classes = matrix.shape
    cell = len(str(max(classes, matrix.max())))
    total = len(str(matrix.sum(axis=1).max()))
    columns = (max(5, len(str(parties))), max(7, total), 6, max(total, 2 * len(str(classes)) + 2))
    # One character after each column, two at the left edge.
    free = width - 2 - sum(column + 1 for column in columns)
    return int(min(classes, max(1, free // (cell + 1))))


def _write_counts(axes: Any, matrix: Int64Array, dark: npt.NDArray[np.bool_]) -> None:
    for (party, label), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if dark[party, label] else "black"
            axes.text(label, party, str(count), ha="center", va="center", fontsize=7, color=colour)
