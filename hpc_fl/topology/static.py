"""Graphs that stay the same in all rounds: each a function of the number of nodes.

Exponential: Ying, Yuan, Chen, Hu, Pan, Yin: Exponential Graph is Provably Efficient for Decentralized Deep
Training, NeurIPS 2021.
"""

from __future__ import annotations

from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Edge, Graph
from hpc_fl.topology.topology import Topology, fixed, hops


def ring(size: int) -> Topology:
    """Each node and the next send to each other: degree 2 (1 for two nodes)."""
    return fixed("ring", Graph.undirected(size, _around(size, 1)))


def directed_ring(size: int) -> Topology:
    """Each node sends to the next: degree 1."""
    return fixed("directed_ring", circulant(size, [1]))


def complete(size: int) -> Topology:
    """Everybody sends to everybody: one round is the mean."""
    return fixed("complete", Graph.undirected(size, ((a, b) for b in range(size) for a in range(b))))


def star(size: int) -> Topology:
    """Node 0 and each other send to each other."""
    return fixed("star", Graph.undirected(size, ((0, b) for b in range(size))))


def grid(size: int, rows: int | None = None) -> Topology:
    """A rectangle of nodes numbered row by row: degree 2 to 4.

    ``rows`` divides ``size``; None: the most nearly square. Raises :class:`TopologyError` for a prime size of
    5 and above without ``rows``: of such there is no rectangle but a line, which ``rows=1`` gives.
    """
    rows, columns = _rectangle("grid", size, rows)
    pairs = [(i, i + 1) for i in range(size) if (i + 1) % columns]
    pairs += [(i, i + columns) for i in range(size - columns)]
    return fixed("grid", Graph.undirected(size, pairs))


def torus(size: int, rows: int | None = None) -> Topology:
    """A grid whose opposite sides are joined: degree 4; 3 where a side has two nodes, 2 (a ring) where one.

    ``rows`` and errors: see :func:`grid`.
    """
    rows, columns = _rectangle("torus", size, rows)
    right = [(i, i - i % columns + (i + 1) % columns) for i in range(size)]
    below = [(i, (i + columns) % size) for i in range(size)]
    return fixed("torus", Graph.undirected(size, right + below))


def hypercube(size: int) -> Topology:
    """Nodes whose numbers differ in one bit: degree log2 size.

    Raises :class:`TopologyError` where ``size`` is no power of two.
    """
    power_of_two("hypercube", size)
    return fixed("hypercube", Graph.undirected(size, across(size, range(hops(size)))))


def exponential(size: int) -> Topology:
    """Node i sends to i + 1, i + 2, i + 4, ... (mod size): degree ceil(log2 size), directed."""
    return fixed("exponential", circulant(size, [2**k for k in range(hops(size))]))


def circulant(size: int, steps: list[int]) -> Graph:
    """Node j sends to j + step (mod size) for each of these."""
    return Graph(
        size, frozenset(edge for step in steps for edge in _around(size, step) if edge[0] != edge[1])
    )


def across(size: int, bits: range) -> list[Edge]:
    """Pairs of nodes that differ in one of these bits alone."""
    return [(i, i ^ (1 << bit)) for bit in bits for i in range(size)]


def power_of_two(name: str, size: int) -> None:
    """Raises :class:`TopologyError` where ``size`` is none."""
    if size < 1 or size & (size - 1):
        raise TopologyError(f"{name}: {size} nodes; a power of two expected, or take the exponential graph")


def _around(size: int, step: int) -> list[Edge]:
    return [(j, (j + step) % size) for j in range(size)]


def _rectangle(name: str, size: int, rows: int | None) -> tuple[int, int]:
    """Rows and columns."""
    if rows is None:
        rows = max(
            (side for side in range(1, size + 1) if side * side <= size and size % side == 0), default=1
        )
        if rows == 1 and size > 3:
            raise TopologyError(
                f"{name}: {size} nodes make no rectangle; take rows=1 for a line of them, or a size that is "
                "not prime"
            )
    if rows < 1 or size % rows:
        raise TopologyError(f"{name}: {size} nodes in {rows} rows; a number of rows that divides it expected")
    return rows, size // rows
