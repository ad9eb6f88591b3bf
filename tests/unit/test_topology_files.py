"""Topologies of one's own: what is written is what is mixed, and what cannot be used is named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpc_fl import topology
from hpc_fl.errors import TopologyError
from hpc_fl.topology import Graph, Schedule

networkx: Any = import_module("networkx")  # torch depends on it, and it has no annotations

W = [[0.75, 0.25, 0.0], [0.25, 0.25, 0.5], [0.0, 0.5, 0.5]]
EDGES = [(j, i, W[i][j]) for i in range(3) for j in range(3) if i != j and W[i][j]]
GRAPH = Graph.undirected(3, [(0, 1), (1, 2)])


class Stand:
    """A graph with as much of networkx as is used."""

    def __init__(self, nodes: Iterable[Any], edges: Sequence[tuple[Any, Any, dict[str, Any]]]) -> None:
        self.nodes, self._edges = nodes, edges

    def edges(self, *, data: bool) -> Sequence[tuple[Any, Any, dict[str, Any]]]:
        assert data
        return self._edges

    def is_directed(self) -> bool:
        return False

    def is_multigraph(self) -> bool:
        return False


@given(arrays(np.float64, (4, 4), elements=st.floats(0, 1)))
def test_a_matrix_is_given_back(matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    given_ = topology.from_matrix(matrix).given
    assert given_ is not None
    assert np.array_equal(given_.dense(), matrix)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.csv", "0.75, 0.25, 0  # node 0\n\n0.25,0.25,0.5\n0,0.5,0.5\n"),
        ("w.txt", "# three nodes\n0.75 0.25 0\n0.25 0.25 0.5\n0 0.5 0.5"),
        ("w.json", json.dumps({"matrix": W})),
        ("w.edges", "\n".join(f"{j} {i} {w}" for j, i, w in EDGES)),
        ("own.edges", "\n".join(f"{j} {i} {W[i][j]}" for i in range(3) for j in range(3) if W[i][j])),
        ("w.json", json.dumps({"edges": EDGES})),
        ("half.json", json.dumps({"edges": EDGES[::2], "undirected": True, "size": 3})),
    ],
)
def test_a_file_with_weights(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    made = topology.from_file(path)
    assert made.name == name
    assert np.array_equal(Schedule(made).matrix(0).dense(), W)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.edges", "0 1\n1 0\n1 2\n2 1"),
        ("g.json", json.dumps({"edges": [[0, 1], [2, 1]], "undirected": True})),
    ],
)
def test_a_file_without_weights_gets_them_by_the_rule(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    made = topology.from_file(str(tmp_path / name))
    assert made.graph(5) == GRAPH
    assert Schedule(made).matrix(0) == topology.metropolis(GRAPH)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("w.csv", "1, 2\n3", "rows of equal length"),
        ("w.csv", "1, 2", r"shape \(1, 2\); a square one"),
        ("w.txt", "", "a square one"),
        ("w.txt", "1 0\n0 one", "w.txt, line 2"),
        ("g.edges", "0 1\n1 0 0.5", r"edges \(1.0, 0.0, 0.5\); expected is j i for all"),
        ("g.edges", "", "edges none"),
        ("g.edges", "0 1\n-1 1\n0.5 1", r"\(-1.0, 1.0\), \(0.5, 1.0\)"),
        ("g.edges", "0 1\n2 1\n0 1", r"\(0, 1\) are listed more than once"),
        ("g.edges", "0 1\n1 1", r"edges \(1.0, 1.0\)"),
        ("g.json", "{", "no JSON"),
        ("g.json", "[[1]]", "keys none; expected is matrix"),
        ("g.json", '{"edges": [[0, 1]], "color": 1}', "keys color, edges"),
        ("g.json", '{"edges": [[0, 1]], "size": "two"}', "a whole number"),
        ("g.json", '{"edges": [[0, "b"]]}', "no edges: "),
        ("g.json", '{"edges": 3}', "no edges: "),
        ("g.json", '{"edges": [[0, 4, 1], [4, 4, 1]], "size": 3}', "below 3 expected"),
        ("g.json", '{"matrix": [[1, "b"], [0, 1]]}', "no matrix of numbers"),
        ("g.npy", "", r"ends in .csv .txt .edges .json"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(TopologyError, match=words) as caught:
        topology.from_file(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        topology.from_file(tmp_path / "none.csv")


@pytest.mark.parametrize("of", [networkx.Graph, networkx.DiGraph])
def test_a_graph_of_networkx(of: Any) -> None:
    made = topology.from_networkx(of([("b", "c"), ("a", "b"), ("c", "a")]))
    directed, both = topology.directed_ring(3).graph(0), topology.complete(3).graph(0)
    assert made.graph(0) == (both if of is networkx.Graph else directed)
    assert made.given is None


def test_graphs_that_networkx_makes() -> None:
    assert topology.from_networkx(networkx.cycle_graph(7)).graph(0) == topology.ring(7).graph(0)
    assert topology.from_networkx(networkx.hypercube_graph(3)).graph(0) == topology.hypercube(8).graph(0)
    torus = networkx.grid_2d_graph(3, 4, periodic=True)
    assert topology.from_networkx(torus).graph(0) == topology.torus(12).graph(0)


@pytest.mark.parametrize("real", [True, False])
def test_weights_of_networkx(real: bool) -> None:
    facts = [(10, 20, {"weight": 0.25}), (30, 20, {"weight": 0.5})]
    graph: Any = networkx.Graph(facts) if real else Stand([30, 10, 20], facts)
    assert np.array_equal(Schedule(topology.from_networkx(graph)).matrix(0).dense(), W)
    plain = topology.from_networkx(graph, weight=None)
    assert plain.given is None
    assert plain.graph(0) == GRAPH


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (networkx.MultiGraph([(0, 1)]), "a multigraph"),
        (networkx.Graph([(0, "a")]), "cannot be sorted"),
        (networkx.Graph([(0, 1, {"weight": 1}), (1, 2, {})]), r"\(1, 2\) have no 'weight'"),
        (networkx.Graph(), "0 nodes"),
    ],
)
def test_what_cannot_be_used_of_networkx(graph: Any, words: str) -> None:
    with pytest.raises(TopologyError, match=words):
        topology.from_networkx(graph)


def test_nodes_without_edges_are_refused_when_mixed() -> None:
    lonely: Any = networkx.Graph()
    lonely.add_nodes_from([0, 1])
    with pytest.raises(TopologyError, match=r"\{0\}, \{1\}"):
        Schedule(topology.from_networkx(lonely))
