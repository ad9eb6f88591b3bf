"""Who takes how much of whom in one step of gossip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Weights = tuple[tuple[int, float], ...]
"""Other nodes and their weights, ascending by node."""


@dataclass(frozen=True)
class MixingMatrix:
    """One step: ``x_i <- sum_j w_ij x_j``, with ``rows[i][j]`` the weight w_ij; what is absent is 0.

    Node j sends to node i where w_ij is not 0 and i is not j. Checks nothing: see
    :mod:`hpc_fl.topology.schedule`.
    """

    rows: tuple[Mapping[int, float], ...]
    _targets: tuple[Weights, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = tuple(MappingProxyType({j: w for j, w in row.items() if w != 0}) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        targets: list[list[tuple[int, float]]] = [[] for _ in rows]
        for i, row in enumerate(rows):
            for j, weight in row.items():
                if i != j:
                    targets[j].append((i, weight))
        object.__setattr__(self, "_targets", tuple(map(tuple, targets)))

    @classmethod
    def from_dense(cls, matrix: Sequence[Sequence[float]] | NDArray[np.float64]) -> MixingMatrix:
        """From a square matrix, w_ij in row i and column j."""
        return cls(tuple({j: float(w) for j, w in enumerate(row) if w != 0} for row in np.asarray(matrix)))

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self.rows)

    def self_weight(self, node: int) -> float:
        """w_ii: what a node keeps of its own."""
        return self.rows[node].get(node, 0.0)

    def sources(self, node: int) -> Weights:
        """The nodes that send to ``node``, and what it takes of each."""
        return tuple(sorted((j, w) for j, w in self.rows[node].items() if j != node))

    def targets(self, node: int) -> Weights:
        """The nodes that ``node`` sends to, and what each takes of it."""
        return self._targets[node]

    def dense(self) -> NDArray[np.float64]:
        """As a square matrix, w_ij in row i and column j."""
        matrix = np.zeros((self.size, self.size))
        for i, row in enumerate(self.rows):
            for j, weight in row.items():
                matrix[i, j] = weight
        return matrix
