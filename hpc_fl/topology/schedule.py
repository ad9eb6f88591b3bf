"""The mixing matrices of all rounds, checked when made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache, partial
from math import ceil, log
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.errors import TopologyError
from hpc_fl.topology.absence import joined
from hpc_fl.topology.graph import Graph, named
from hpc_fl.topology.hierarchy import contracted, expanded, group_graph, remaining
from hpc_fl.topology.matrix import MixingMatrix
from hpc_fl.topology.soundness import keeps_mean, refuse_disconnected
from hpc_fl.topology.spectrum import deviation, product, second_eigenvalue
from hpc_fl.topology.topology import Groups, Topology
from hpc_fl.topology.weights import Rule, auto, metropolis
from hpc_fl.topology.weights import lazy as halved

_KEPT: Final = 64
"""Matrices kept, besides those of one period."""
_DRAWN: Final = 16
"""Rounds that :meth:`Schedule.describe` shows, at most."""


class Schedule:
    """``matrix(round)`` for a topology and the weights of its edges; a function of the round, with no memory.

    ``weights``: a rule; None: the weights that came with the topology, else
    :func:`~hpc_fl.topology.weights.auto`. ``target``: one number above 0 a node, whose weighted mean is to be
    preserved in place of the plain one (with ``weights=None``: by Metropolis). ``lazy``: (I + W) / 2 for W,
    between groups where there are groups. ``join``: where nodes are absent, their neighbours exchange in
    their stead, whatever the weights (see :meth:`matrix`).

    Every rank makes its own, alike, without a message. Raises :class:`TopologyError`, naming nodes: weights
    below 0; rows or columns that do not sum to one (columns alone do for push-sum); nodes that do not hear of
    each other within ``topology.window`` rounds; weights that go round and round and never meet.
    """

    def __init__(
        self,
        topology: Topology,
        weights: Rule | None = None,
        *,
        target: Sequence[float] | None = None,
        lazy: bool = False,
        join: bool = False,
    ) -> None:
        self._topology, self._lazy, self._join = topology, lazy, join
        self._given = topology.given if weights is None else None
        self._weights = weights
        self._target = _shares(target, topology)
        self._all = frozenset(range(topology.size))
        self._matrix = lru_cache(maxsize=topology.window + _KEPT)(self._make)
        self._whole: tuple[MixingMatrix, ...] = ()
        self._check()
        if self.period is not None:
            self._whole = tuple(self._window())

    @property
    def name(self) -> str:
        return self._topology.name

    @property
    def size(self) -> int:
        """How many nodes there are, present or not."""
        return self._topology.size

    @property
    def period(self) -> int | None:
        """Rounds after which it repeats; None: never."""
        return self._topology.period

    @property
    def static(self) -> bool:
        """Whether all rounds are alike."""
        return self._topology.static

    @property
    def groups(self) -> Groups:
        """Those of a hierarchical topology: nodes average inside them first; else none."""
        return self._topology.groups

    @property
    def target(self) -> tuple[float, ...]:
        """The shares of the nodes in the mean that is preserved; they sum to one."""
        return tuple(self._target.tolist())

    def matrix(self, round_: int, present: frozenset[int] | None = None) -> MixingMatrix:
        """The weights of round ``round_`` (0, 1, ...) over all nodes, or over those ``present``: absent ones
        keep their own, and nobody takes of them.

        Over those present it again is what the schedule is: doubly stochastic, or column-stochastic. Rules
        for undirected graphs and push-sum weigh the edges left, which may fall apart (:meth:`components`). No
        weights of the edges left keep the mean where the graph is directed, or the weights came with it: then
        what would have gone through an absent node goes on at once to those behind it
        (:func:`~hpc_fl.topology.absence.joined`), and nodes that this round connects stay connected. Where
        rounds are pairs, nobody is behind an absent partner: some present may meet later, or never
        (:meth:`components` tells). Raises :class:`TopologyError` for nodes that there are not.
        """
        if present is None and self._whole:  # the usual call, which short messages would feel
            return self._whole[round_ % len(self._whole)]
        at = round_ if self.period is None else round_ % self.period
        return self._matrix(at, self._known(present))

    def between(self, round_: int, present: frozenset[int] | None = None) -> MixingMatrix:
        """The weights between :attr:`groups`, which are applied to the groups' means: with them,
        :meth:`matrix` has w_ij = G[g(i), g(j)] / (nodes present in g(j)). A group with nobody keeps its own.
        """
        groups = remaining(self.groups, self._known(present))
        return contracted(self.matrix(round_, present), groups)

    def components(self, present: frozenset[int] | None = None, round_: int = 0) -> Groups:
        """The nodes present by who hears of whom, in the rounds of one period (or window) from ``round_``:
        one component where all do.
        """
        known = self._known(present)
        graphs = [Graph.of(self.matrix(round_ + t, known)) for t in range(self._topology.window)]
        return tuple(c for c in graphs[0].union(graphs[1:]).components() if c[0] in known)

    @cached_property
    def directed(self) -> bool:
        """Whether some node sends to one that does not send back in the same round."""
        return not all(Graph.of(matrix).symmetric for matrix in self._window())

    @cached_property
    def symmetric(self) -> bool:
        """Whether all matrices are symmetric."""
        return all(bool(np.allclose(w, w.T, rtol=0, atol=1e-12)) for w in self._dense())

    @property
    def doubly_stochastic(self) -> bool:
        """Whether rows and columns sum to one, so that the plain mean is preserved."""
        return self._keeps_mean and self._plain

    @property
    def column_stochastic(self) -> bool:
        """Whether columns sum to one, so that push-sum finds the plain mean."""
        return self._plain

    def spectral_gap(self) -> float:
        """One minus the factor, per round, by which the consensus error is multiplied at most; 0 to 1.

        The factor is the largest singular value of ``P - 1 1^T / S`` to the power of 1 / rounds, P the
        product of the matrices of one period (or window). For a static symmetric W that is the second
        largest eigenvalue in modulus. With a target: in the norm weighted by it. For weights that keep no
        mean (push-sum): the second largest modulus of P's eigenvalues, a rate that holds in the long run.
        """
        return float(1.0 - self._factor ** (1.0 / self._topology.window))

    def rounds_to_consensus(self, factor: float = 1e-3) -> int | None:
        """Rounds, a multiple of the period (or window), after which the consensus error is at most
        ``factor`` of what it was, by the spectral gap; None where that promises nothing.
        """
        if self.size == 1:
            return 0
        if self._factor >= 1:
            return None
        periods = ceil(log(factor) / log(self._factor)) if self._factor > 0 else 1
        return self._topology.window * max(periods, 1)

    def describe(self) -> dict[str, Any]:
        """What a report draws, ready for JSON. ``steps``: by round, at most 16 of one period (or window), the
        messages [source, target, weight].
        """
        steps = self._window()[:_DRAWN]
        return {
            "name": self.name,
            "size": self.size,
            "directed": self.directed,
            "gap": self.spectral_gap(),
            "rounds_to_consensus": self.rounds_to_consensus(),
            "period": self.period,
            "steps": [
                [[j, i, w] for i in range(self.size) for j, w in matrix.sources(i)] for matrix in steps
            ],
        }

    @cached_property
    def _plain(self) -> bool:
        """Whether all nodes count alike in the mean."""
        return bool(np.all(self._target == self._target[0]))

    @cached_property
    def _factor(self) -> float:
        steps = product(self._dense())
        return deviation(steps, self._target) if self._keeps_mean else second_eigenvalue(steps)

    def _window(self) -> list[MixingMatrix]:
        return [self.matrix(t) for t in range(self._topology.window)]

    def _dense(self) -> list[NDArray[np.float64]]:
        return [matrix.dense() for matrix in self._window()]

    def _known(self, present: Iterable[int] | None) -> frozenset[int]:
        known = self._all if present is None else frozenset(present)
        if not known <= self._all:
            raise TopologyError(
                f"{self.name}: present are {named(sorted(known - self._all))}, which are not among the nodes "
                f"0..{self.size - 1}"
            )
        return known

    def _check(self) -> None:
        matrices = self._window()
        kinds = [keeps_mean(w, self._target, f"{self.name}, round {t}") for t, w in enumerate(matrices)]
        self._keeps_mean = all(kinds)
        if self.groups and not self._keeps_mean:
            raise TopologyError(f"{self.name}: weights between groups must be doubly stochastic; use auto")
        if self._join and not (self._keeps_mean or self.static):
            raise TopologyError(f"{self.name}: join=True needs weights that keep the mean in every round")
        refuse_disconnected([Graph.of(matrix) for matrix in matrices], self.name)
        selfless = [i for w in matrices for i in range(self.size) if w.self_weight(i) == 0]
        if selfless and second_eigenvalue(product(self._dense())) > 1 - 1e-9:
            raise TopologyError(
                f"{self.name}: no consensus is reached, for nodes {named(selfless)} keep nothing of their "
                "own; give them a self weight, or take lazy=True"
            )

    def _make(self, round_: int, present: frozenset[int]) -> MixingMatrix:
        whole = present == self._all
        matrix = self._weighed(round_, present) if whole else self._reduced(round_, present)
        if not self._lazy:
            return matrix
        if self.groups:
            groups = remaining(self.groups, present)
            return expanded(halved(contracted(matrix, groups)), groups, self.size)
        return halved(matrix)

    def _reduced(self, round_: int, present: frozenset[int]) -> MixingMatrix:
        reweighs = self._given is None and not (self._keeps_mean and self.directed)
        if reweighs and not self._join:
            matrix = self._weighed(round_, present)
            if self._sound(matrix):
                return matrix
        return joined(self._weighed(round_, self._all), present)

    def _weighed(self, round_: int, present: frozenset[int]) -> MixingMatrix:
        """The rule's weights for the edges between those present."""
        if self._given is not None:
            return self._given
        graph = self._topology.graph(round_)
        if present != self._all:
            graph = graph.restricted(present)
        if not self.groups:
            return self._rule(self._target.tolist())(graph)
        groups = remaining(self.groups, present)
        between, sizes = group_graph(graph, groups), list(map(len, groups))
        if len(set(sizes)) > 1 and not between.symmetric:
            raise TopologyError(
                f"{self.name}: groups of {named(sizes)} nodes over a directed graph; expected are "
                "groups of equal size, or an undirected graph between them"
            )
        return expanded(self._rule(sizes)(between), groups, self.size)

    def _rule(self, shares: Sequence[float]) -> Rule:
        """What weighs a graph whose nodes count by ``shares``."""
        if self._weights is not None:
            return self._weights
        return auto if len(set(shares)) == 1 else partial(metropolis, target=shares)

    def _sound(self, matrix: MixingMatrix) -> bool:
        """Whether it keeps what the schedule keeps."""
        try:
            return keeps_mean(matrix, self._target, self.name) or not self._keeps_mean
        except TopologyError:
            return False


def _shares(target: Sequence[float] | None, topology: Topology) -> NDArray[np.float64]:
    """Each node's share in the mean that is to be preserved, (S,)."""
    shares = np.ones(topology.size) if target is None else np.array(target, np.float64)
    wrong = np.flatnonzero(~(np.isfinite(shares) & (shares > 0)))
    if shares.shape != (topology.size,) or len(wrong):
        raise TopologyError(
            f"{topology.name}: a target of shape {shares.shape} (not above 0 at nodes "
            f"{named(wrong.tolist()) or 'none'}); {topology.size} numbers above 0 expected"
        )
    if target is not None and topology.groups:
        raise TopologyError(f"{topology.name}: no target with groups; their nodes count alike")
    result: NDArray[np.float64] = shares / shares.sum()
    return result
