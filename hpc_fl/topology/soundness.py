"""What weights must be so that mixing keeps the mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Graph, named
from hpc_fl.topology.matrix import MixingMatrix

TOLERANCE: Final = 1e-6
"""How far a sum may be from one: weights may come from a file, or have been float32."""


def keeps_mean(matrix: MixingMatrix, target: NDArray[np.float64], where: str) -> bool:
    """True where rows sum to one and ``sum_i target_i w_ij = target_j``: doubly stochastic, for a uniform
    target. False where columns alone sum to one, which is enough for push-sum.

    Raises :class:`TopologyError` for anything else: names the entries that are negative or not finite, or
    the rows and columns with their sums. ``target`` (S,) sums to one.
    """
    entries = [(i, j, w) for i, row in enumerate(matrix.rows) for j, w in row.items()]
    refused = [f"{w:.4g} from {j} to {i}" for i, j, w in entries if not (isfinite(w) and w >= 0)]
    if refused:
        raise TopologyError(f"{where}: weights {named(refused)}; numbers of 0 and above expected")
    rows, columns, balance = np.zeros((3, matrix.size))
    for i, j, w in entries:
        rows[i] += w
        columns[j] += w
        balance[j] += w * target[i] / target[j]
    if not (_off(rows) or _off(balance)):
        return True
    uniform = bool(np.all(target == target[0]))
    if uniform and not _off(columns):
        return False
    told = [f"row {i} ({rows[i]:.6g})" for i in _off(rows)]
    told += [f"column {j} ({balance[j]:.6g})" for j in _off(balance)]
    of_what = "rows and columns" if uniform else "rows, and columns weighted by the target,"
    raise TopologyError(
        f"{where}: {of_what} must sum to one, or columns alone for push-sum; these do not: {named(told)}"
    )


def refuse_disconnected(graphs: Sequence[Graph], where: str) -> None:
    """Raises :class:`TopologyError`, naming components, where these rounds leave some node unheard."""
    together = graphs[0].union(graphs[1:])
    if not together.strongly_connected():
        parts = ["{" + named(component) + "}" for component in together.components()]
        rounds = f"{len(graphs)} rounds" if len(graphs) > 1 else "the graph"
        raise TopologyError(
            f"{where}: {rounds} not connected: what is known in one of {named(parts, 4)} never reaches all "
            "others; add edges between them, both ways or in a cycle"
        )


def _off(sums: NDArray[np.float64]) -> list[int]:
    return [int(i) for i in np.flatnonzero(np.abs(sums - 1) > TOLERANCE)]
