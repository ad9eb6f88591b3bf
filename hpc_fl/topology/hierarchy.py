"""Two levels: nodes average inside their group, groups mix by a topology of their own.

As matrices: with G the weights between groups, ``w_ij = G[g(i), g(j)] / size(g(j))``. That is doubly
stochastic where G preserves the mean weighted by the sizes of the groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product

from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Graph, named
from hpc_fl.topology.matrix import MixingMatrix
from hpc_fl.topology.topology import Groups, Topology


def hierarchical(groups: Iterable[Sequence[int]], between: Callable[[int], Topology]) -> Topology:
    """Nodes in ``groups`` (those of one machine, say), with the topology that ``between`` makes over groups.

    Raises :class:`TopologyError`, naming nodes, unless every node 0, 1, ... is in one group and no group is
    empty.
    """
    parts = tuple(tuple(sorted(group)) for group in groups)
    nodes = sorted(node for group in parts for node in group)
    if not all(parts) or nodes != list(range(len(nodes))) or not nodes:
        wrong = sorted(set(nodes) ^ set(range(len(nodes))))
        raise TopologyError(
            f"hierarchical: groups of {len(nodes)} nodes, {sum(not group for group in parts)} groups empty, "
            f"missing or too large: {named(wrong) or 'none'}; each of 0, 1, ... in one group expected"
        )
    outer = between(len(parts))

    def graph(round_: int) -> Graph:
        leaders = outer.graph(round_)
        blocks = [(g, g) for g in range(len(parts))] + sorted(leaders.edges)
        pairs = (pair for g, h in blocks for pair in product(parts[g], parts[h]))
        return Graph(len(nodes), frozenset((j, i) for j, i in pairs if j != i))

    return replace(
        outer, name=f"hierarchical {outer.name}", size=len(nodes), graph=graph, given=None, groups=parts
    )


def remaining(groups: Groups, present: frozenset[int]) -> Groups:
    """The groups without absent nodes; some may be empty."""
    return tuple(tuple(node for node in group if node in present) for group in groups)


def group_graph(graph: Graph, groups: Groups) -> Graph:
    """Which groups send to which, in a graph of nodes."""
    where = {node: g for g, group in enumerate(groups) for node in group}
    pairs = ((where[j], where[i]) for j, i in graph.edges if j in where and i in where)
    return Graph(len(groups), frozenset((g, h) for g, h in pairs if g != h))


def expanded(between: MixingMatrix, groups: Groups, size: int) -> MixingMatrix:
    """Weights between groups as weights between nodes; nodes of no group keep their own."""
    rows: list[dict[int, float]] = [{i: 1.0} for i in range(size)]
    for group, weights in zip(groups, between.rows, strict=True):
        row = {j: w / len(groups[h]) for h, w in weights.items() for j in groups[h]}
        for i in group:
            rows[i] = row
    return MixingMatrix(tuple(rows))


def contracted(matrix: MixingMatrix, groups: Groups) -> MixingMatrix:
    """The inverse of :func:`expanded`: an empty group keeps its own."""
    rows = []
    for g, group in enumerate(groups):
        row = matrix.rows[group[0]] if group else {}
        sums = {h: sum(row.get(j, 0.0) for j in other) for h, other in enumerate(groups)}
        rows.append(sums if group else {g: 1.0})
    return MixingMatrix(tuple(rows))
