"""Schedules: absent nodes, targets, push-sum, groups, what is refused, and what a report draws."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.topologies import ANY_SIZE, consensus_error, mixed

from hpc_fl import topology
from hpc_fl.errors import TopologyError
from hpc_fl.topology import Graph, MixingMatrix, Rule, Schedule

names = st.sampled_from(sorted(ANY_SIZE))
PAIRS = ("random_matching",)
"""Where nobody is behind an absent partner in the same round."""
sizes = st.integers(1, 33)
rounds = st.integers(0, 12)
few = settings(deadline=None, max_examples=150)


def some(data: st.DataObject, size: int) -> frozenset[int]:
    """Some of the nodes, maybe none."""
    return frozenset(data.draw(st.sets(st.integers(0, size - 1)), label="present"))


def one_way(size: int) -> Graph:
    """A directed ring with a shortcut from node 0: no doubly stochastic weights by degrees."""
    return Graph(size, topology.directed_ring(size).graph(0).edges | {(0, size // 2)})


def absent_stand_alone(w: np.ndarray[tuple[int, ...], np.dtype[np.float64]], present: frozenset[int]) -> bool:
    """Whether absent nodes keep their own and nobody takes of them."""
    absent = [i for i in range(len(w)) if i not in present]
    return bool(
        np.array_equal(w[absent], np.eye(len(w))[absent]) and not w[np.ix_(sorted(present), absent)].any()
    )


@few
@given(name=names, size=sizes, t=rounds, lazy=st.booleans(), join=st.booleans(), data=st.data())
def test_those_that_remain_still_keep_the_mean(
    name: str, size: int, t: int, lazy: bool, join: bool, data: st.DataObject
) -> None:
    present = some(data, size)
    schedule = Schedule(ANY_SIZE[name](size), lazy=lazy, join=join)
    w = schedule.matrix(t, present).dense()
    assert absent_stand_alone(w, present)
    assert w.min() >= 0
    assert np.allclose(w.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert np.allclose(w.sum(axis=0), 1, rtol=0, atol=1e-12)
    assert not schedule.symmetric or np.allclose(w, w.T, rtol=0, atol=1e-12)
    if schedule.directed or (join and name not in PAIRS):
        assert len(schedule.components(present)) == bool(present)


def test_an_absent_partner_has_nobody_behind_it() -> None:
    """Of a hypercube's pairs 0-1, 2-3, then 0-2, 1-3, those of 0 and 3 are both absent: they never meet."""
    schedule = Schedule(topology.one_peer_hypercube(4), join=True)
    assert schedule.components(frozenset({0, 3})) == ((0,), (3,))
    assert np.array_equal(schedule.matrix(0, frozenset({0, 3})).dense(), np.eye(4))


@few
@given(name=names, size=sizes, t=rounds, data=st.data())
def test_push_sum_keeps_the_sum_over_those_that_remain(
    name: str, size: int, t: int, data: st.DataObject
) -> None:
    present = some(data, size)
    make = ANY_SIZE["star" if name == "hierarchical" else name]
    w = Schedule(make(size), topology.push_sum).matrix(t, present).dense()
    assert absent_stand_alone(w, present)
    assert w.min() >= 0
    assert np.allclose(w.sum(axis=0), 1, rtol=0, atol=1e-12)


@few
@given(size=sizes, rule=st.sampled_from([topology.metropolis, topology.uniform, None]), data=st.data())
def test_a_rule_that_cannot_weigh_the_rest_gives_way(
    size: int, rule: Rule | None, data: st.DataObject
) -> None:
    present = some(data, size)
    w = Schedule(topology.ring(size), rule).matrix(0, present).dense()
    assert absent_stand_alone(w, present)
    assert np.allclose(w.sum(axis=0), 1, rtol=0, atol=1e-12)
    assert np.allclose(w, w.T, rtol=0, atol=1e-12)


def test_a_ring_falls_apart_but_a_directed_one_closes_up() -> None:
    present = frozenset({0, 1, 3, 4})
    assert Schedule(topology.ring(6)).components(present) == ((0, 1), (3, 4))
    assert Schedule(topology.ring(6), join=True).components(present) == ((0, 1, 3, 4),)
    closed = Schedule(topology.directed_ring(6)).matrix(0, present)
    assert [closed.sources(i) for i in sorted(present)] == [
        ((4, 0.5),),
        ((0, 0.5),),
        ((1, 0.5),),
        ((3, 0.5),),
    ]


def test_one_peer_stays_one_message_where_nodes_are_absent() -> None:
    schedule = Schedule(topology.one_peer_exponential(13))
    present = frozenset(range(13)) - {2, 5, 6}
    for t in range(4):
        matrix = schedule.matrix(t, present)
        assert [(len(matrix.targets(i)), matrix.self_weight(i)) for i in sorted(present)] == [(1, 0.5)] * 10


@pytest.mark.parametrize("weights", [None, topology.push_sum])
def test_nodes_that_there_are_not(weights: Rule | None) -> None:
    with pytest.raises(TopologyError, match=r"present are 4, 9, which are not among the nodes 0\.\.3"):
        Schedule(topology.ring(4), weights).matrix(0, frozenset({1, 4, 9}))


@few
@given(name=names, size=sizes, data=st.data())
def test_metropolis_keeps_the_weighted_mean(name: str, size: int, data: st.DataObject) -> None:
    graph = ANY_SIZE[name](size).graph(0)
    both = Graph.undirected(size, graph.edges | {(i, (i + 1) % size) for i in range(size)})
    target = data.draw(st.lists(st.floats(0.01, 100), min_size=size, max_size=size))
    schedule = Schedule(topology.fixed(name, both), target=target)
    present = some(data, size)
    pi = np.array(schedule.target)
    assert pi == pytest.approx(np.array(target) / sum(target))
    for w in (schedule.matrix(0).dense(), schedule.matrix(0, present).dense()):
        assert w.min() >= 0
        assert np.allclose(w.sum(axis=1), 1, rtol=0, atol=1e-12)
        assert np.allclose(pi @ w, pi, rtol=0, atol=1e-12)
    x = np.random.default_rng(size).standard_normal(size)
    bound = (1 - schedule.spectral_gap()) ** 5 * consensus_error(x, pi)
    assert consensus_error(mixed(schedule, x, 5), pi) <= bound + 1e-12
    assert schedule.doubly_stochastic == (len(set(pi.tolist())) == 1)


@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_push_sum_finds_the_mean_on_a_directed_graph(size: int) -> None:
    schedule = Schedule(topology.fixed("one way", one_way(size)), topology.push_sum)
    assert schedule.column_stochastic
    assert schedule.doubly_stochastic == (size <= 3)  # there the shortcut is no new edge
    x = np.arange(size) ** 2.0
    z, weight = x, np.ones(size)
    wait = schedule.rounds_to_consensus(1e-10)
    assert wait is not None
    for t in range(wait + size):
        w = schedule.matrix(t).dense()
        z, weight = w @ z, w @ weight
    assert z / weight == pytest.approx(np.full(size, x.mean()), rel=1e-6)


@few
@given(data=st.data())
def test_groups_mix_by_their_means(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6), label="group sizes")
    ends = list(itertools.accumulate(counts))
    size = ends[-1]
    groups = [tuple(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]
    equal = len(set(counts)) == 1
    between = topology.one_peer_exponential if equal and data.draw(st.booleans()) else topology.ring
    schedule = Schedule(topology.hierarchical(groups, between), lazy=data.draw(st.booleans()))
    present = some(data, size)
    x = np.random.default_rng(size).standard_normal(size)
    for t in range(3):
        matrix, outer = schedule.matrix(t, present), schedule.between(t, present).dense()
        inside = [[i for i in group if i in present] for group in schedule.groups]
        means = np.array([x[group].mean() if group else 0.0 for group in inside])
        mixed_means, y = outer @ means, matrix.dense() @ x
        for g, group in enumerate(inside):
            assert y[group] == pytest.approx(np.full(len(group), mixed_means[g]), abs=1e-12)
        assert np.allclose(matrix.dense().sum(axis=0), 1, rtol=0, atol=1e-12)
        assert np.allclose(outer.sum(axis=1), 1, rtol=0, atol=1e-12)


def test_groups_have_the_gap_of_the_graph_between_them() -> None:
    groups = [(0, 1), (2, 3), (4, 5), (6, 7)]
    schedule = Schedule(topology.hierarchical(groups, topology.ring))
    assert schedule.spectral_gap() == pytest.approx(Schedule(topology.ring(4)).spectral_gap())
    assert schedule.groups == tuple(groups)


TWO_PARTS = Graph.undirected(5, [(0, 1), (1, 2), (3, 4)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(topology.fixed("mine", TWO_PARTS)), r"mine: .*\{0, 1, 2\}, \{3, 4\}"),
        (lambda: Schedule(topology.varying(5, [TWO_PARTS] * 3)), r"3 rounds not connected.*\{3, 4\}"),
        (
            lambda: Schedule(topology.fixed("path", Graph(3, frozenset({(0, 1), (1, 2)})))),
            "degrees differ.*push-sum",
        ),
        (lambda: Schedule(topology.fixed("one way", one_way(5))), r"2 \(2 in, 1 out\).*push-sum"),
        (lambda: Schedule(topology.directed_ring(3), topology.metropolis), r"one way only: \(0, 1\)"),
        (lambda: Schedule(topology.star(4), topology.uniform), r"column 0 \(1\.75\)"),
        (lambda: Schedule(topology.ring(4), target=[1, 2, 3]), r"target of shape \(3,\)"),
        (lambda: Schedule(topology.ring(3), target=[1, 0, -3]), "at nodes 1, 2"),
        (lambda: Schedule(topology.directed_ring(3), target=[1, 2, 3]), "need an undirected graph"),
        (
            lambda: Schedule(topology.hierarchical([(0,), (1, 2), (3,)], topology.directed_ring)),
            "groups of 1, 2, 1",
        ),
        (
            lambda: Schedule(topology.hierarchical([(0, 1)], topology.ring), target=[1, 2]),
            "no target with groups",
        ),
        (
            lambda: Schedule(topology.hierarchical([(0,), (1,), (2,)], topology.star), topology.push_sum),
            "must be doubly stochastic",
        ),
        (lambda: Schedule(topology.from_matrix([[0, 1], [1, 0]])), "nodes 0, 1 keep nothing of their own"),
        (
            lambda: Schedule(topology.from_matrix([[0.5, 0.5], [0.4, 0.5]])),
            r"row 1 \(0\.9\), column 0 \(0\.9\)",
        ),
        (lambda: Schedule(topology.from_matrix([[1.5, -0.5], [-0.5, 1.5]])), "-0.5 from 1 to 0"),
        (lambda: Schedule(topology.from_matrix([[0.5, np.nan], [0.5, 0.5]])), "nan from 1 to 0"),
        (
            lambda: Schedule(
                topology.varying(3, [Graph(3, frozenset(edges)) for edges in ([(0, 1)], [(1, 2)], [(2, 0)])]),
                topology.push_sum,
                join=True,
            ),
            "join=True needs",
        ),
    ],
)
def test_what_mixes_badly_is_refused_by_name(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(TopologyError, match=words):
        make()


def test_lazy_saves_a_matrix_that_never_meets() -> None:
    schedule = Schedule(topology.from_matrix([[0, 1], [1, 0]]), lazy=True)
    assert np.array_equal(schedule.matrix(0).dense(), np.full((2, 2), 0.5))
    assert schedule.rounds_to_consensus() == 1


def test_given_weights_are_used_as_they_are_and_a_rule_overrules_them() -> None:
    w = [[0.8, 0.2, 0.0], [0.2, 0.5, 0.3], [0.0, 0.3, 0.7]]
    given_ = topology.from_matrix(w)
    assert np.array_equal(Schedule(given_).matrix(7).dense(), w)
    metropolis = topology.metropolis(Graph.undirected(3, [(0, 1), (1, 2)]))
    assert Schedule(given_, topology.metropolis).matrix(7) == metropolis
    rest = Schedule(given_).matrix(0, frozenset({0, 2})).dense()  # what went through node 1 goes on at once
    assert rest == pytest.approx(np.array([[0.88, 0, 0.12], [0, 1, 0], [0.12, 0, 0.88]]))


def test_graphs_of_ones_own_by_sequence_function_and_iterator() -> None:
    steps = [topology.ring(4).graph(0), topology.star(4).graph(0)]
    by_sequence = Schedule(topology.varying(4, steps))
    by_function = Schedule(topology.varying(4, lambda t: steps[t % 2]))
    by_iterator = Schedule(topology.varying(4, itertools.cycle(steps)))
    assert by_sequence.period == 2
    assert by_function.period is by_iterator.period is None
    for t in (9, 0, 100, 3):  # in any order
        expected = topology.auto(steps[t % 2])
        assert by_sequence.matrix(t) == by_function.matrix(t) == by_iterator.matrix(t) == expected


def test_an_iterator_that_ends_says_so() -> None:
    def three() -> Iterator[Graph]:
        yield from itertools.repeat(topology.ring(4).graph(0), 3)

    schedule = Schedule(topology.varying(4, three(), window=3))
    with pytest.raises(TopologyError, match="ended before round 3"):
        schedule.matrix(3)


@pytest.mark.parametrize("name", sorted(ANY_SIZE))
@pytest.mark.parametrize("size", [1, 2, 9])
def test_the_description_holds_every_message_and_is_json(name: str, size: int) -> None:
    schedule = Schedule(ANY_SIZE[name](size))
    told = json.loads(json.dumps(schedule.describe()))
    keys = ["name", "size", "directed", "gap", "rounds_to_consensus", "period", "steps"]
    assert list(told) == keys
    assert 1 <= len(told["steps"]) <= 16
    for t, step in enumerate(told["steps"]):
        w = np.diag([schedule.matrix(t).self_weight(i) for i in range(size)])
        for j, i, weight in step:
            w[i, j] = weight
        assert np.array_equal(w, schedule.matrix(t).dense())


def test_properties() -> None:
    def told(schedule: Schedule) -> Sequence[object]:
        return schedule.static, schedule.period, schedule.directed, schedule.symmetric

    assert told(Schedule(topology.ring(5))) == (True, 1, False, True)
    assert told(Schedule(topology.exponential(5))) == (True, 1, True, False)
    assert told(Schedule(topology.one_peer_exponential(8))) == (False, 3, True, False)
    assert told(Schedule(topology.random_matching(5))) == (False, None, False, True)
    assert told(Schedule(topology.star(5), topology.push_sum)) == (True, 1, False, False)
    assert isinstance(Schedule(topology.ring(1)).matrix(0), MixingMatrix)
