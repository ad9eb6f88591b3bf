"""Rules that make the weights of a graph.

Metropolis, Rosenbluth, Rosenbluth, Teller, Teller: Equation of State Calculations by Fast Computing Machines,
1953; Hastings, 1970; for averaging: Xiao, Boyd: Fast Linear Iterations for Distributed Averaging, Systems and
Control Letters 2004. Push-sum: Kempe, Dobra, Gehrke: Gossip-Based Computation of Aggregate Information, FOCS
2003; Assran, Loizou, Ballas, Rabbat: Stochastic Gradient Push, ICML 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Graph, named
from hpc_fl.topology.matrix import MixingMatrix

Rule = Callable[[Graph], MixingMatrix]
"""Weights for the edges of a graph and for what each node keeps. A node without edges keeps all: w_ii = 1."""


def metropolis(graph: Graph, target: Sequence[float] | None = None) -> MixingMatrix:
    """``w_ij = min(1 / (d_i + 1), (target_j / target_i) / (d_j + 1))`` for neighbours, d their degrees, and
    w_ii the rest: rows sum to one and the ``target``-weighted mean is preserved.

    Without ``target`` that is 1 / (max(d_i, d_j) + 1), symmetric and doubly stochastic. ``target``: one
    number a node, above 0 wherever the node has a neighbour; need not sum to one. Raises
    :class:`TopologyError` for a directed graph.
    """
    if not graph.symmetric:
        one_way = sorted((j, i) for j, i in graph.edges if (i, j) not in graph.edges)
        raise TopologyError(
            f"Metropolis weights need an undirected graph; one way only: {named(one_way)}; use push-sum "
            "(strategy sgp) or send both ways"
        )
    share = [(1.0 if target is None else target[i]) / (len(graph.sources(i)) + 1) for i in range(graph.size)]
    rows = []
    for i in range(graph.size):
        own = 1.0 if target is None else target[i]
        row = {j: min(share[i], share[j]) / own for j in graph.sources(i)}
        rows.append({**row, i: 1.0 - sum(row.values())})
    return MixingMatrix(tuple(rows))


def uniform(graph: Graph) -> MixingMatrix:
    """A node takes the mean of its own and what arrives: ``w_ij = 1 / (in-degree of i + 1)``.

    Rows sum to one; columns too where the graph is regular.
    """
    rows = []
    for i in range(graph.size):
        sources = graph.sources(i)
        rows.append({j: 1.0 / (len(sources) + 1) for j in (i, *sources)})
    return MixingMatrix(tuple(rows))


def push_sum(graph: Graph) -> MixingMatrix:
    """A node divides its own among itself and its targets: ``w_ij = 1 / (out-degree of j + 1)``.

    Columns sum to one, rows need not: for push-sum, which divides by a weight that travels along.
    """
    share = [1.0 / (len(graph.targets(j)) + 1) for j in range(graph.size)]
    return MixingMatrix(tuple({j: share[j] for j in (i, *graph.sources(i))} for i in range(graph.size)))


def auto(graph: Graph) -> MixingMatrix:
    """Doubly stochastic weights: :func:`metropolis` where the graph is undirected, :func:`uniform` where it
    is directed and regular.

    Raises :class:`TopologyError` otherwise, naming nodes.
    """
    if graph.symmetric:
        return metropolis(graph)
    if graph.regular:
        return uniform(graph)
    degrees = [(i, len(graph.sources(i)), len(graph.targets(i))) for i in range(graph.size)]
    uneven = [f"{i} ({come} in, {go} out)" for i, come, go in degrees if (come, go) != degrees[0][1:]]
    raise TopologyError(
        f"a directed graph whose degrees differ: node {degrees[0][0]} ({degrees[0][1]} in, {degrees[0][2]} "
        f"out), but {named(uneven)}; use push-sum (strategy sgp)"
    )


def lazy(matrix: MixingMatrix) -> MixingMatrix:
    """(I + W) / 2: half as fast, and no eigenvalue of a symmetric W below 0, as exact diffusion needs."""
    rows = []
    for i, row in enumerate(matrix.rows):
        halved = {j: w / 2 for j, w in row.items()}
        rows.append({**halved, i: halved.get(i, 0.0) + 0.5})
    return MixingMatrix(tuple(rows))
