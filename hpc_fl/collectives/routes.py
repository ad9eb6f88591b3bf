"""Which rows travel between ranks in one step of a topology, and what is made of them where they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.collectives.mixer import Placement
from hpc_fl.errors import TransportError
from hpc_fl.topology import MixingMatrix

_REMEMBERED: Final = 64
"""Matrices of a schedule: more than the rounds after which the usual ones repeat."""


@dataclass(frozen=True)
class Sent:
    """Row ``row`` here, of ``node``, goes to each of ``ranks`` once."""

    node: int
    row: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Received:
    """The row of ``node`` comes from ``rank``; each of ``targets`` is a row here and its weight."""

    node: int
    rank: int
    targets: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Routes:
    """One step as ``rank`` sees it. Messages between two ranks travel in ascending order of their node.

    ``nodes``: those hosted here, in the order of their rows. ``weights`` (B, B) float64: w_ij among them.
    ``inside``: for each row here, the other rows here that take of it, and their weights.
    """

    matrix: MixingMatrix
    nodes: tuple[int, ...]
    sent: tuple[Sent, ...]
    received: tuple[Received, ...]
    weights: NDArray[np.float64]
    inside: tuple[tuple[tuple[int, float], ...], ...]

    @classmethod
    def of(cls, matrix: MixingMatrix, placement: Placement, rank: int) -> Routes:
        """Those of ``rank``. Raises :class:`TransportError` where the matrix is for other nodes."""
        nodes = placement[rank]
        host = {node: r for r, of in enumerate(placement) for node in of}
        if matrix.size != len(host):
            raise TransportError(
                f"mixing matrix of {matrix.size} nodes, the ranks host {len(host)}; these must be the same"
            )
        row = {node: b for b, node in enumerate(nodes)}
        weights = np.zeros((len(nodes), len(nodes)))
        taken: dict[int, list[tuple[int, float]]] = {}
        for node, b in row.items():
            weights[b, b] = matrix.self_weight(node)
            for source, weight in matrix.sources(node):
                if source in row:
                    weights[b, row[source]] = weight
                else:
                    taken.setdefault(source, []).append((b, weight))
        # A rank begins with its neighbour, or all would send to rank 0 first.
        size = len(placement)
        sources = sorted(taken, key=lambda node: ((rank - host[node]) % size, node))
        return cls(
            matrix,
            nodes,
            tuple(
                Sent(node, b, ranks) for node, b in row.items() if (ranks := _ranks(matrix, host, node, size))
            ),
            tuple(Received(node, host[node], tuple(taken[node])) for node in sources),
            weights,
            tuple(tuple((row[to], w) for to, w in matrix.targets(node) if to in row) for node in nodes),
        )


class Itinerary:
    """The routes of ``rank`` by matrix, each worked out once."""

    def __init__(self, placement: Placement, rank: int, size: int) -> None:
        check_placement(placement, size)
        self._placement, self._rank = placement, rank
        self._known: dict[int, Routes] = {}

    def of(self, matrix: MixingMatrix) -> Routes:
        """Raises :class:`TransportError` where the matrix is for other nodes."""
        known = self._known.get(id(matrix))  # which is its own as long as the routes hold it
        return known if known is not None else self._remember(matrix)

    def _remember(self, matrix: MixingMatrix) -> Routes:
        routes = Routes.of(matrix, self._placement, self._rank)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[id(matrix)] = routes
        return routes


def gossip_bytes(matrix: MixingMatrix, placement: Placement, rank: int, nbytes: int) -> int:
    """Bytes that ``rank`` sends in one step where a row has ``nbytes``: a row goes once to every other rank
    that hosts a node which takes of it.
    """
    host = {node: r for r, of in enumerate(placement) for node in of}
    return nbytes * sum(len(_ranks(matrix, host, node, len(placement))) for node in placement[rank])


def check_placement(placement: Sequence[Sequence[int]], size: int) -> None:
    """Raises :class:`TransportError` unless ``size`` ranks host the nodes 0, 1, ... once each, ascending."""
    nodes = [node for of in placement for node in of]
    if len(placement) != size:
        raise TransportError(f"placement: nodes of {len(placement)} ranks given, there are {size}")
    if sorted(nodes) != list(range(len(nodes))):
        raise TransportError(f"placement: nodes 0 to {len(nodes) - 1} expected once each, given {nodes[:16]}")
    if any(list(of) != sorted(of) for of in placement):
        raise TransportError("placement: the nodes of a rank must ascend; sort them")


def _ranks(matrix: MixingMatrix, host: dict[int, int], node: int, size: int) -> tuple[int, ...]:
    """The ranks other than its own that host a target of ``node``, from its own rank on."""
    home = host[node]
    ranks = {host[target] for target, _ in matrix.targets(node)} - {home}
    return tuple(sorted(ranks, key=lambda rank: (rank - home) % size))
