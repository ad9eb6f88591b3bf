"""Which nodes send to which in one round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from hpc_fl.errors import TopologyError
from hpc_fl.topology.matrix import MixingMatrix

Edge = tuple[int, int]
"""(source j, target i): node j sends to node i."""


@dataclass(frozen=True)
class Graph:
    """Nodes 0..size-1 and who sends to whom; a node needs no edge to itself, and has none.

    Raises :class:`TopologyError`, which names the edges, for one that leaves the graph or leads from a node
    to itself.
    """

    size: int
    edges: frozenset[Edge]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise TopologyError(f"a graph of {self.size} nodes; at least 1 expected")
        wrong = [(j, i) for j, i in self.edges if j == i or not (0 <= j < self.size and 0 <= i < self.size)]
        if wrong:
            raise TopologyError(
                f"edges {named(sorted(wrong))}: expected are pairs of different nodes of 0..{self.size - 1}"
            )

    @classmethod
    def undirected(cls, size: int, pairs: Iterable[Edge]) -> Graph:
        """Both nodes of a pair send to each other; a pair of the same node twice is left out."""
        return cls(size, frozenset(edge for a, b in pairs if a != b for edge in ((a, b), (b, a))))

    @classmethod
    def of(cls, matrix: MixingMatrix) -> Graph:
        """Who sends to whom under these weights."""
        rows = enumerate(matrix.rows)
        return cls(matrix.size, frozenset((j, i) for i, row in rows for j in row if i != j))

    @cached_property
    def _sources(self) -> Mapping[int, tuple[int, ...]]:
        return _grouped((i, j) for j, i in self.edges)

    @cached_property
    def _targets(self) -> Mapping[int, tuple[int, ...]]:
        return _grouped(self.edges)

    def sources(self, node: int) -> tuple[int, ...]:
        """The nodes that send to ``node``, ascending: its in-neighbours."""
        return self._sources.get(node, ())

    def targets(self, node: int) -> tuple[int, ...]:
        """The nodes that ``node`` sends to, ascending: its out-neighbours."""
        return self._targets.get(node, ())

    @cached_property
    def symmetric(self) -> bool:
        """Whether every edge has its opposite: the graph is undirected."""
        return all((i, j) in self.edges for j, i in self.edges)

    @cached_property
    def regular(self) -> bool:
        """Whether all nodes have the same number of sources, which also is that of their targets."""
        return (
            len({len(side(node)) for side in (self.sources, self.targets) for node in range(self.size)}) == 1
        )

    def restricted(self, present: frozenset[int]) -> Graph:
        """The same nodes, with the edges between those present only."""
        return Graph(self.size, frozenset((j, i) for j, i in self.edges if j in present and i in present))

    def union(self, others: Iterable[Graph]) -> Graph:
        """All edges of these graphs of the same size."""
        return Graph(self.size, self.edges.union(*(other.edges for other in others)))

    def components(self) -> tuple[tuple[int, ...], ...]:
        """The strongly connected components, each ascending, in the order of their first nodes."""
        left, found = set(range(self.size)), []
        for node in range(self.size):
            if node in left:
                component = _reached(node, self._targets) & _reached(node, self._sources)
                left -= component
                found.append(tuple(sorted(component)))
        return tuple(found)

    def strongly_connected(self) -> bool:
        """Whether what any node knows reaches every other."""
        return all(len(_reached(0, side)) == self.size for side in (self._targets, self._sources))


def named(items: Iterable[object], most: int = 8) -> str:
    """The first of these, for a message of one line."""
    texts = list(map(str, items))
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _grouped(pairs: Iterable[Edge]) -> Mapping[int, tuple[int, ...]]:
    lists: dict[int, list[int]] = {}
    for key, value in pairs:
        lists.setdefault(key, []).append(value)
    return {key: tuple(sorted(values)) for key, values in lists.items()}


def _reached(node: int, neighbours: Mapping[int, tuple[int, ...]]) -> set[int]:
    seen, border = {node}, [node]
    while border:
        new = [other for other in neighbours.get(border.pop(), ()) if other not in seen]
        seen.update(new)
        border.extend(new)
    return seen
