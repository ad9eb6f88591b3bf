"""Every topology: stochastic weights, connected, as fast as its spectral gap, as many messages as it says."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws.topologies import CASES, Make, consensus_error, mixed

from hpc_fl import topology
from hpc_fl.errors import TopologyError
from hpc_fl.topology import Graph, MixingMatrix, Schedule

each = pytest.mark.parametrize(
    ("make", "size"), [case[1:] for case in CASES], ids=[f"{case[0]}-{case[2]}" for case in CASES]
)
seeds = st.integers(0, 2**32)


@each
def test_weights_are_doubly_stochastic_and_connect_all(make: Make, size: int) -> None:
    schedule = Schedule(make(size))
    window = 3 if schedule.period is None else schedule.period
    for t in range(window):
        w = schedule.matrix(t).dense()
        assert w.min() >= 0
        assert np.allclose(w.sum(axis=1), 1, rtol=0, atol=1e-12)
        assert np.allclose(w.sum(axis=0), 1, rtol=0, atol=1e-12)
        assert np.all(np.diag(w) > 0)
    assert schedule.doubly_stochastic
    assert schedule.column_stochastic
    assert schedule.components() == (tuple(range(size)),)


@each
def test_the_consensus_error_shrinks_as_the_spectral_gap_says(make: Make, size: int) -> None:
    schedule = Schedule(make(size))
    even = np.full(size, 1 / size)
    x = np.random.default_rng(size).standard_normal(size)
    rounds = make(size).window * 2 if schedule.period else make(size).window
    y = mixed(schedule, x, rounds)
    assert even @ y == pytest.approx(even @ x, abs=1e-12)
    bound = (1 - schedule.spectral_gap()) ** rounds * consensus_error(x, even)
    assert consensus_error(y, even) <= bound + 1e-12


@each
def test_consensus_within_the_rounds_predicted(make: Make, size: int) -> None:
    schedule = Schedule(make(size))
    even = np.full(size, 1 / size)
    x = np.random.default_rng(size + 1).standard_normal(size)
    rounds = schedule.rounds_to_consensus(0.1)
    assert rounds is not None
    if schedule.period is None:  # the prediction is that of the first rounds, repeated
        rounds *= 2
    assert consensus_error(mixed(schedule, x, rounds), even) <= 0.1 * consensus_error(x, even) + 1e-12


@each
def test_push_sum_weights_have_columns_that_sum_to_one(make: Make, size: int) -> None:
    steps = make(size)
    w = topology.push_sum(steps.graph(0)).dense()
    assert w.min() >= 0
    assert np.allclose(w.sum(axis=0), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [topology.one_peer_exponential, topology.one_peer_hypercube])
@pytest.mark.parametrize("log_size", range(6))
def test_one_peer_of_a_power_of_two_gives_the_exact_mean_in_one_period(make: Make, log_size: int) -> None:
    size = 2**log_size
    schedule = Schedule(make(size))
    assert schedule.period == max(log_size, 1)
    x = np.arange(size) ** 2.0
    assert np.array_equal(mixed(schedule, x, log_size), np.full(size, x.mean()))
    assert schedule.spectral_gap() == 1
    assert schedule.rounds_to_consensus(1e-9) == log_size


@pytest.mark.parametrize("size", [3, 4, 5, 8, 13, 32])
def test_messages_are_those_of_the_byte_formulas(size: int) -> None:
    def sent(make: Make, t: int = 0) -> set[int]:
        matrix = Schedule(make(size)).matrix(t)
        return {len(matrix.targets(node)) for node in range(size)}

    assert sent(topology.ring) == {2}
    assert sent(topology.directed_ring) == {1}
    assert all(sent(topology.one_peer_exponential, t) == {1} for t in range(10))
    assert sent(topology.exponential) == {ceil(log2(size))}
    assert sent(topology.complete) == {size - 1}
    assert sent(topology.random_matching) <= ({0, 1} if size % 2 else {1})


def test_the_spectral_gap_of_known_graphs() -> None:
    for size in (4, 9, 16):
        ring = 1 - (1 + 2 * np.cos(2 * np.pi / size)) / 3
        assert Schedule(topology.ring(size)).spectral_gap() == pytest.approx(ring)
        assert Schedule(topology.star(size)).spectral_gap() == pytest.approx(1 / size)
        assert Schedule(topology.complete(size)).spectral_gap() == pytest.approx(1)
    for log_size in (2, 3, 4):  # Ying et al., 2021, proposition 1
        both = topology.exponential(2**log_size), topology.hypercube(2**log_size)
        assert [Schedule(one).spectral_gap() for one in both] == pytest.approx([2 / (1 + log_size)] * 2)


@given(seed=seeds, size=st.integers(1, 33), t=st.integers(0, 10**9))
def test_a_matching_is_one_and_every_rank_draws_the_same(seed: int, size: int, t: int) -> None:
    first, second = (topology.random_matching(size, seed).graph(t) for _ in range(2))
    assert first == second
    assert first.symmetric
    partners = [first.sources(node) for node in range(size)]
    assert sorted(map(len, partners)) == [0] * (size % 2) + [1] * (size - size % 2)


def test_matchings_differ_by_round_and_seed() -> None:
    drawn = {topology.random_matching(16, seed).graph(t) for seed in range(3) for t in range(20)}
    assert len(drawn) == 60


@given(seed=seeds, size=st.integers(2, 33), data=st.data())
def test_a_random_regular_graph_is_regular_and_connected(seed: int, size: int, data: st.DataObject) -> None:
    low = min(3, size - 1)
    degree = data.draw(st.integers(low, size - 1).filter(lambda d: d * size % 2 == 0))
    graph = topology.random_regular(size, degree, seed).graph(0)
    assert {len(graph.sources(node)) for node in range(size)} == {degree}
    assert graph.symmetric
    assert graph.strongly_connected()
    assert graph == topology.random_regular(size, degree, seed).graph(0)


@given(seed=seeds, size=st.integers(5, 33), p=st.floats(0, 1))
def test_a_small_world_keeps_its_edges_and_is_connected(seed: int, size: int, p: float) -> None:
    graph = topology.small_world(size, 4, p, seed).graph(0)
    assert len(graph.edges) == 4 * size
    assert graph.symmetric
    assert graph.strongly_connected()


def test_a_small_world_of_no_change_is_the_lattice() -> None:
    assert topology.small_world(9, 2, 0.0).graph(0) == topology.ring(9).graph(0)


def test_erdos_renyi_has_about_as_many_edges_as_p_says() -> None:
    counts = [len(topology.erdos_renyi(40, 0.5, seed).graph(0).edges) / (40 * 39) for seed in range(20)]
    assert abs(np.mean(counts) - 0.5) < 0.03
    assert topology.erdos_renyi(9, 1.0).graph(0) == topology.complete(9).graph(0)


def test_an_expander_is_no_worse_than_a_random_regular_graph() -> None:
    gaps = [Schedule(topology.random_regular(32, 4, seed)).spectral_gap() for seed in range(9)]
    assert Schedule(topology.expander(32, 4)).spectral_gap() >= np.median(gaps)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: topology.hypercube(6), "6 nodes; a power of two"),
        (lambda: topology.one_peer_hypercube(12), "12 nodes; a power of two"),
        (lambda: topology.torus(7), "7 nodes make no rectangle"),
        (lambda: topology.grid(6, rows=4), "6 nodes in 4 rows"),
        (lambda: topology.ring(0), "0 nodes"),
        (lambda: topology.random_regular(4, 4), "degree 4 for 4 nodes"),
        (lambda: topology.random_regular(5, 3), "degree 3 for 5 nodes"),
        (lambda: topology.random_regular(6, 1), "none of 100 graphs drawn is connected"),
        (lambda: topology.small_world(6, 3), "degree 3; an even number"),
        (lambda: topology.small_world(6, 2, 1.5), "p = 1.5"),
        (lambda: topology.erdos_renyi(30, 0.001), "none of 100 graphs drawn is connected"),
        (lambda: topology.erdos_renyi(30, -1), "p = -1"),
        (lambda: topology.hierarchical([(0, 1), (1, 2)], topology.ring), "missing or too large: 3|each of"),
        (lambda: topology.hierarchical([(0, 1), (3,)], topology.ring), "missing or too large: 2, 3"),
        (lambda: topology.hierarchical([(0, 1), ()], topology.ring), "1 groups empty"),
        (lambda: topology.varying(3, []), "no graphs"),
        (lambda: topology.varying(3, [Graph(4, frozenset())]), "round 0 has a graph of 4 nodes"),
        (lambda: Graph(3, frozenset({(0, 3), (1, 1)})), r"\(0, 3\), \(1, 1\)"),
    ],
)
def test_what_cannot_be_made_is_refused(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(TopologyError, match=words):
        make()


def test_a_line_of_nodes_where_it_is_asked_for() -> None:
    assert topology.torus(7, rows=1).graph(0) == topology.ring(7).graph(0)
    assert len(topology.grid(7, rows=1).graph(0).edges) == 12


@given(size=st.integers(1, 12), data=st.data())
def test_components_are_nodes_that_reach_each_other(size: int, data: st.DataObject) -> None:
    nodes = st.integers(0, size - 1)
    pairs = data.draw(st.sets(st.tuples(nodes, nodes).filter(lambda pair: pair[0] != pair[1])))
    graph = Graph(size, frozenset(pairs))
    reach = np.eye(size, dtype=bool)
    for j, i in pairs:
        reach[j, i] = True
    for _ in range(size):
        reach = reach @ reach
    both = reach & reach.T
    assert {node: component for component in graph.components() for node in component} == {
        node: tuple(np.flatnonzero(both[node]).tolist()) for node in range(size)
    }
    assert graph.strongly_connected() == both.all()


def test_lazy_halves_every_step() -> None:
    w = MixingMatrix.from_dense([[0.0, 1.0], [1.0, 0.0]])
    assert np.array_equal(topology.lazy(w).dense(), np.full((2, 2), 0.5))
