"""Topologies of one's own: a matrix, a list of edges, a file of either, or a graph of networkx."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Edge, Graph, named
from hpc_fl.topology.matrix import MixingMatrix
from hpc_fl.topology.topology import Topology, fixed


class NetworkxGraph(Protocol):
    """What is used of ``networkx.Graph`` and ``networkx.DiGraph``."""

    @property
    def nodes(self) -> Iterable[Any]: ...

    def edges(self, *, data: bool) -> Iterable[tuple[Any, Any, dict[str, Any]]]: ...

    def is_directed(self) -> bool: ...

    def is_multigraph(self) -> bool: ...


def from_matrix(matrix: Sequence[Sequence[float]] | NDArray[Any], name: str = "matrix") -> Topology:
    """Weights w_ij in row i (who takes) and column j (of whom), square; :class:`~hpc_fl.topology.Schedule`
    checks them. Raises :class:`TopologyError` for what is not square, or not of numbers.
    """
    try:
        dense = np.asarray(matrix, np.float64)
    except (TypeError, ValueError) as error:
        raise TopologyError(
            f"{name}: no matrix of numbers ({error}); rows of equal length expected"
        ) from None
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1] or not dense.size:
        raise TopologyError(f"{name}: a matrix of shape {dense.shape}; a square one expected")
    given = MixingMatrix.from_dense(dense)
    return fixed(name, Graph.of(given), given=given)


def from_edges(
    edges: Iterable[Sequence[float]],
    size: int | None = None,
    *,
    undirected: bool = False,
    name: str = "edges",
) -> Topology:
    """Edges (j, i), node j sends to node i, or with the weight w_ij as a third number: all of them or none.

    Without weights a rule makes them. With weights and without any edge (i, i, w_ii), a node keeps what its
    row lacks to one. ``size``: None for one more than the largest node. ``undirected``: each edge counts both
    ways. Raises :class:`TopologyError`, naming the edges that cannot be used.
    """
    rows = _rows(edges, name)
    graph_rows = rows + [(i, j, *w) for j, i, *w in rows if undirected and i != j]
    end = inf if size is None else size
    wrong = [row for row in rows if not all(0 <= node < end and node.is_integer() for node in row[:2])]
    wrong += [row for row in rows if len(row) == 2 and row[0] == row[1]]
    if wrong:
        raise TopologyError(
            f"{name}: edges {named(wrong)}; nodes of 0, 1, ... below {end} expected, and two different ones "
            "where there are no weights"
        )
    weights = {(int(row[0]), int(row[1])): row[2:] for row in graph_rows}
    if len(weights) < len(graph_rows):
        counts = Counter((int(row[0]), int(row[1])) for row in graph_rows)
        twice = [edge for edge, count in counts.items() if count > 1]
        raise TopologyError(f"{name}: edges {named(twice)} are listed more than once")
    nodes = max(map(max, weights)) + 1 if size is None else size
    if not any(weights.values()):
        return fixed(name, Graph(nodes, frozenset(weights)))
    graph = Graph(nodes, frozenset((j, i) for j, i in weights if j != i))
    return fixed(name, graph, given=_weighted(nodes, {edge: w for edge, (w,) in weights.items()}))


def from_networkx(graph: NetworkxGraph, *, weight: str | None = "weight", name: str = "networkx") -> Topology:
    """A graph of networkx, its nodes numbered 0, 1, ... in sorted order; edge (a, b): a sends to b.

    Where all edges have the attribute ``weight``, it is the mixing weight, as in :func:`from_edges`; None:
    never. Raises :class:`TopologyError` where some edges alone have it, for a multigraph, and for nodes that
    cannot be sorted.
    """
    if graph.is_multigraph():
        raise TopologyError(f"{name}: a multigraph; Graph or DiGraph expected")
    try:
        number = {node: i for i, node in enumerate(sorted(graph.nodes))}
    except TypeError as error:
        raise TopologyError(f"{name}: nodes that cannot be sorted ({error}); relabel them") from None
    edges = list(graph.edges(data=True))
    bare = [(a, b) for a, b, facts in edges if weight is None or facts.get(weight) is None]
    if bare and len(bare) < len(edges):
        raise TopologyError(f"{name}: edges {named(bare)} have no {weight!r} but others have; all or none")
    if not edges:
        return fixed(name, Graph(len(number), frozenset()))
    listed = [
        (number[a], number[b], *([facts[weight]] if weight is not None and not bare else []))
        for a, b, facts in edges
    ]
    return from_edges(listed, len(number), undirected=not graph.is_directed(), name=name)


def from_file(path: str | Path) -> Topology:
    """By the ending: ``.csv`` and ``.txt``, a square matrix, a row a line, commas or spaces between;
    ``.edges``, lines ``j i`` or ``j i weight``; ``.json``, ``{"matrix": [[...], ...]}`` or ``{"edges":
    [[j, i], ...]}`` with ``"size"`` and ``"undirected"`` where wanted. ``#`` begins a comment, but in JSON.

    Raises :class:`TopologyError`, naming the file and the line, for what cannot be read.
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise TopologyError(f"{path.name}: a file that ends in {' '.join(_READERS)} expected")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: cannot be read: {error}") from None
    return _READERS[path.suffix](text, path.name)


def _rows(edges: Iterable[Sequence[float]], name: str) -> list[tuple[float, ...]]:
    """The edges as numbers, all of them two or all of them three."""
    try:
        rows = [tuple(map(float, edge)) for edge in edges]
    except (TypeError, ValueError) as error:
        raise TopologyError(f"{name}: no edges: {error}; j i or j i weight expected") from None
    odd = [row for row in rows if len(row) not in (2, 3) or len(row) != len(rows[0])]
    if odd or not rows:
        raise TopologyError(f"{name}: edges {named(odd) or 'none'}; expected is j i for all, or j i weight")
    return rows


def _weighted(size: int, weights: Mapping[Edge, float]) -> MixingMatrix:
    rows: list[dict[int, float]] = [{} for _ in range(size)]
    for (j, i), weight in weights.items():
        rows[i][j] = weight
    if not any(i in row for i, row in enumerate(rows)):
        rows = [{**row, i: 1.0 - sum(row.values())} for i, row in enumerate(rows)]
    return MixingMatrix(tuple(rows))


def _numbers(text: str, name: str) -> list[list[float]]:
    """The numbers of each line that has any."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split("#")[0].replace(",", " ").split()
        try:
            rows.append([float(field) for field in fields])
        except ValueError as error:
            raise TopologyError(f"{name}, line {number}: {error}; numbers expected") from None
    return [row for row in rows if row]


def _matrix_text(text: str, name: str) -> Topology:
    return from_matrix(_numbers(text, name), name)


def _edges_text(text: str, name: str) -> Topology:
    return from_edges(_numbers(text, name), name=name)


def _json_text(text: str, name: str) -> Topology:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise TopologyError(f"{name}: no JSON: {error}") from None
    keys = set(content) if isinstance(content, dict) else set()
    if keys == {"matrix"}:
        return from_matrix(content["matrix"], name)
    if keys in _EDGE_KEYS and isinstance(content.get("size", 1), int):
        return from_edges(**content, name=name)
    raise TopologyError(
        f"{name}: keys {named(sorted(keys)) or 'none'}; expected is matrix alone, or edges with size "
        "(a whole number) and undirected where wanted"
    )


_EDGE_KEYS: Final = [{"edges", *more} for more in ([], ["size"], ["undirected"], ["size", "undirected"])]
_READERS: Final[dict[str, Callable[[str, str], Topology]]] = {
    ".csv": _matrix_text,
    ".txt": _matrix_text,
    ".edges": _edges_text,
    ".json": _json_text,
}
