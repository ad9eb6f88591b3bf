"""A topology: the graph of every round, before any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from hpc_fl.errors import TopologyError
from hpc_fl.topology.graph import Graph
from hpc_fl.topology.matrix import MixingMatrix

Groups = tuple[tuple[int, ...], ...]
"""Nodes by the group that they are in; together every node once."""


@dataclass(frozen=True)
class Topology:
    """``graph(t)`` is the graph of round t = 0, 1, ..., the same on every rank without a message.

    ``period``: rounds after which it repeats (1: static), or None where it never does. ``window``: the rounds
    over which it must connect all nodes. ``given``: weights that came with it, for a static one. ``groups``:
    those of a hierarchical one, whose nodes average inside their group first.
    """

    name: str
    size: int
    graph: Callable[[int], Graph]
    period: int | None = 1
    window: int = 1
    given: MixingMatrix | None = None
    groups: Groups = ()

    @property
    def static(self) -> bool:
        """Whether all rounds are alike."""
        return self.period == 1


def fixed(name: str, graph: Graph, *, given: MixingMatrix | None = None, groups: Groups = ()) -> Topology:
    """The same graph in all rounds."""
    return Topology(name, graph.size, lambda _: graph, given=given, groups=groups)


def hops(size: int) -> int:
    """ceil(log2 size): how many doublings lead from one node to all."""
    return (size - 1).bit_length()


def periodic(name: str, size: int, graphs: Sequence[Graph]) -> Topology:
    """These graphs one after the other, again and again."""
    steps = tuple(graphs)
    return Topology(name, size, lambda t: steps[t % len(steps)], period=len(steps), window=len(steps))


def endless(name: str, size: int, graph: Callable[[int], Graph], window: int | None = None) -> Topology:
    """A graph for each round, without a period. It must connect all nodes within the first ``window``
    rounds, which also are those that its spectral gap is taken over; None: 8 + 4 ceil(log2 size).
    """
    rounds = 8 + 4 * hops(size) if window is None else window
    return Topology(name, size, graph, period=None, window=rounds)


def varying(
    size: int,
    graphs: Callable[[int], Graph] | Iterable[Graph],
    *,
    name: str = "varying",
    window: int | None = None,
) -> Topology:
    """A topology of one's own that changes: a function of the round, a sequence that repeats, or an iterator.

    All ranks must be given the same graphs. An iterator is read as far as needed, and what it gave is kept,
    so that earlier rounds can be asked for again; it must not end. Raises :class:`TopologyError` where it
    does, and, when the round is asked for, for a graph of another size. ``window``: see :func:`endless`;
    of no effect on a sequence.
    """
    if isinstance(graphs, Sequence):
        if not graphs:
            raise TopologyError(f"{name}: no graphs; a sequence of at least one expected")
        return periodic(name, size, [_sized(graph, size, name, t) for t, graph in enumerate(graphs)])
    read = graphs if callable(graphs) else _Read(iter(graphs), name)
    return endless(name, size, lambda t: _sized(read(t), size, name, t), window)


class _Read:
    """An iterator as a function of the round."""

    def __init__(self, graphs: Iterator[Graph], name: str) -> None:
        self._graphs, self._name = graphs, name
        self._seen: list[Graph] = []

    def __call__(self, round_: int) -> Graph:
        while len(self._seen) <= round_:
            try:
                self._seen.append(next(self._graphs))
            except StopIteration:
                raise TopologyError(
                    f"{self._name}: the iterator ended before round {len(self._seen)}; give a sequence "
                    "where graphs are to repeat"
                ) from None
        return self._seen[round_]


def _sized(graph: Graph, size: int, name: str, round_: int) -> Graph:
    if graph.size != size:
        raise TopologyError(f"{name}: round {round_} has a graph of {graph.size} nodes; {size} expected")
    return graph
