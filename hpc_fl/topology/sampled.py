"""Graphs drawn once, from a seed: a function of it, so that every rank draws alike.

Erdos, Renyi: On Random Graphs, 1959 (the form of Gilbert, 1959). Watts, Strogatz: Collective Dynamics of
Small-World Networks, Nature 1998. Random regular graphs by switching edges: McKay, Wormald, 1990; that nearly
all are nearly the best expanders: Friedman: A Proof of Alon's Second Eigenvalue Conjecture, 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.counter import Words, key, words
from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Edge, Graph
from hpc_fl.topology.spectrum import deviation
from hpc_fl.topology.static import circulant
from hpc_fl.topology.topology import Topology, fixed
from hpc_fl.topology.weights import uniform

TRIES: Final = 100
"""Graphs drawn before giving up on a connected one."""
_CANDIDATES: Final = 8
_SWITCHES: Final = 10
"""Switches tried for each edge: well beyond what graphs of this size need to forget where they came from."""
_REGULAR, _RANDOM, _SMALL, _EXPANDER = 1, 2, 3, 4
"""The names of their random streams."""


def random_regular(size: int, degree: int = 4, seed: int = 0) -> Topology:
    """Every node has ``degree`` neighbours, drawn at random; connected.

    Raises :class:`TopologyError` unless ``degree`` is below ``size`` and one of the two is even, or where
    none of 100 draws is connected (``degree`` 0 and 1; 2 for many nodes).
    """
    name = "random_regular"
    _degree(name, size, degree)
    return fixed(
        name, _connected(name, f"degree {degree}", lambda t: _switched(size, degree, seed, _REGULAR, t))
    )


def expander(size: int, degree: int = 4, seed: int = 0) -> Topology:
    """The random regular graph of largest spectral gap among 8 drawn: no more than a few per cent from the
    best there is, 2 sqrt(degree - 1) / degree.

    Errors: as for :func:`random_regular`.
    """
    name = "expander"
    _degree(name, size, degree)
    even = np.full(size, 1 / size)

    def draw(attempt: int) -> Graph:
        drawn = [
            _switched(size, degree, seed, _EXPANDER, _CANDIDATES * attempt + t) for t in range(_CANDIDATES)
        ]
        return min(drawn, key=lambda graph: deviation(uniform(graph).dense(), even))

    return fixed(name, _connected(name, f"degree {degree}", draw))


def erdos_renyi(size: int, p: float | None = None, seed: int = 0) -> Topology:
    """Each pair of nodes is joined with probability ``p``, on condition that the graph is connected.

    ``p=None``: 2 ln(size) / size, twice what connects nearly all. Raises :class:`TopologyError` for a ``p``
    outside 0..1, or where none of 100 draws is connected.
    """
    name = "erdos_renyi"
    chance = min(1.0, 2 * log(size) / size) if p is None else p
    _probability(name, chance)
    lower = np.tril_indices(size, -1)

    def draw(attempt: int) -> Graph:
        joined = _uniform(_drawn(len(lower[0]), seed, _RANDOM, attempt)) < chance
        return Graph.undirected(size, zip(*(side[joined].tolist() for side in lower), strict=True))

    return fixed(name, _connected(name, f"p = {chance:.4g}; above {log(size) / size:.4g} most are", draw))


def small_world(size: int, degree: int = 4, p: float = 0.1, seed: int = 0) -> Topology:
    """A ring on which each node has its ``degree`` nearest as neighbours, then one end of each edge moved to
    a random node with probability ``p``, on condition that the graph is connected.

    Raises :class:`TopologyError` unless ``degree`` is even and below ``size`` and ``p`` in 0..1, or where
    none of 100 draws is connected.
    """
    name = "small_world"
    _degree(name, size, degree)
    _probability(name, p)
    if degree % 2:
        raise TopologyError(f"{name}: degree {degree}; an even number expected, half on each side")

    def draw(attempt: int) -> Graph:
        steps = [(i, (i + step) % size) for step in range(1, degree // 2 + 1) for i in range(size)]
        near = [set[int]() for _ in range(size)]
        for a, b in steps:
            near[a].add(b)
            near[b].add(a)
        coins, picks = _drawn(2 * len(steps), seed, _SMALL, attempt).reshape(2, -1)
        for (a, b), moved, pick in zip(steps, _uniform(coins) < p, picks.tolist(), strict=True):
            free = [c for c in range(size) if c != a and c not in near[a]] if moved else []
            if free:
                c = free[pick % len(free)]
                near[a].remove(b)
                near[b].remove(a)
                near[a].add(c)
                near[c].add(a)
        return Graph.undirected(size, ((a, b) for a in range(size) for b in near[a]))

    return fixed(name, _connected(name, f"degree {degree}, p = {p:.4g}", draw))


def _switched(size: int, degree: int, seed: int, name: int, attempt: int) -> Graph:
    """A regular graph on a circle, after switching the ends of random pairs of edges."""
    steps = [*range(1, degree // 2 + 1), *([size // 2] if degree % 2 else [])]
    edges: list[Edge] = sorted(
        (a, b) for a, b in Graph.undirected(size, circulant(size, steps).edges).edges if a < b
    )
    taken = set(edges)
    count = _SWITCHES * len(edges)
    for first, second in (_drawn(2 * count, seed, name, attempt).reshape(count, 2) >> np.uint64(1)).tolist():
        one, other = first % len(edges), second % len(edges)
        (a, b), (c, d) = edges[one], edges[other][:: 1 if second // len(edges) % 2 else -1]
        new = [(min(a, d), max(a, d)), (min(c, b), max(c, b))]
        if len({a, b, c, d}) == 4 and taken.isdisjoint(new):
            taken -= {edges[one], edges[other]}
            taken.update(new)
            edges[one], edges[other] = new
    return Graph.undirected(size, edges)


def _connected(name: str, hint: str, draw: Callable[[int], Graph]) -> Graph:
    for attempt in range(TRIES):
        graph = draw(attempt)
        if graph.strongly_connected():
            return graph
    raise TopologyError(f"{name}: none of {TRIES} graphs drawn is connected ({hint}); take more edges")


def _degree(name: str, size: int, degree: int) -> None:
    if not 0 <= degree < size or size * degree % 2:
        raise TopologyError(
            f"{name}: degree {degree} for {size} nodes; a degree below the number of nodes expected, and one "
            "of the two even"
        )


def _probability(name: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise TopologyError(f"{name}: p = {p}; a probability of 0 to 1 expected")


def _drawn(count: int, seed: int, name: int, attempt: int) -> Words:
    """Random words, (count,)."""
    result: Words = words(key(seed, name, attempt), np.zeros(1, np.int64), count)[0]
    return result


def _uniform(drawn: Words) -> NDArray[np.float64]:
    """As numbers of [0, 1)."""
    return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53
