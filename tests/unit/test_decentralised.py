"""Decentralised algorithms on quadratics whose optimum is known: parties pull in different directions."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from hpc_fl.flat import FlatModel
from hpc_fl.strategies import (
    D2,
    DPSGD,
    MASS,
    MODEL,
    SGP,
    Decentralised,
    GradientTracking,
    Local,
    Own,
    QuasiGlobal,
    buffers_of,
)
from hpc_fl.topology import Graph, Schedule, complete, exponential, fixed, push_sum, ring

N, TRAINABLE, PARTIES = 12, 9, 6
METHODS: dict[str, Callable[[], Decentralised]] = {
    "dpsgd": DPSGD,
    "overlap": lambda: DPSGD(overlap=True),
    "sgp": SGP,
    "d2": D2,
    "gradient tracking": GradientTracking,
    "quasi-global": QuasiGlobal,
}


@dataclass
class World:
    """Party i minimises 0.5 a_i ||x - b_i||^2; the consensus optimum is sum a_i b_i / sum a_i."""

    strategy: Decentralised
    schedule: Schedule
    rate: float = 0.1
    steps: int = 1
    unsound: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    own: list[Own] = field(default_factory=list)
    round: int = 0

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.a = torch.rand(PARTIES, 1, generator=draw, dtype=torch.float64) + 0.5
        self.b = 3 * torch.randn(PARTIES, TRAINABLE, generator=draw, dtype=torch.float64)
        lengths = {MODEL: N, **self.strategy.travels(N)}
        self.rows = {name: torch.zeros(PARTIES, of, dtype=torch.float64) for name, of in lengths.items()}
        self.own = [Own({name: rows[i] for name, rows in self.rows.items()}, {}) for i in range(PARTIES)]
        for own in self.own:
            self.strategy.begin(own, TRAINABLE)

    @property
    def optimum(self) -> Tensor:
        return (self.a * self.b).sum(0) / self.a.sum()

    @property
    def models(self) -> Tensor:
        return self.rows[MODEL][:, :TRAINABLE]

    def run(self, rounds: int) -> "World":
        for _ in range(rounds):
            self.step()
        return self

    def step(self) -> None:
        rate = self.rate * self.steps
        mixed = {name: rows.clone() for name, rows in self.rows.items()}
        correction = self.strategy.correction({i: own.kept for i, own in enumerate(self.own)})
        for i, own in enumerate(self.own):
            if i in self.gone:
                continue
            x = own.model.clone()
            for _ in range(self.steps):
                gradient = self.a[i] * (x[:TRAINABLE] - self.b[i])
                if i in self.unsound:
                    gradient.fill_(float("nan"))
                if correction is not None:
                    correction((i,), x[:TRAINABLE], gradient, own.model)
                x[:TRAINABLE] -= self.rate * gradient
            x[TRAINABLE:] += 1.0  # an averaged buffer, which every party moves alike
            sound = i not in self.unsound
            update = x - own.model if sound else torch.zeros_like(x)
            self.strategy.offer(own, Local(update, rate, sound), TRAINABLE)
        source = mixed if self.strategy.overlaps else self.rows
        present = frozenset(range(PARTIES)) - self.gone
        matrix = torch.from_numpy(self.schedule.matrix(self.round, present).dense())
        for rows in source.values():
            rows.copy_(matrix @ rows)
        for i, own in enumerate(self.own):
            if i in self.gone:
                continue
            self.strategy.settle(own, source[MODEL][i], rate, TRAINABLE)
        self.round += 1


def schedule(strategy: Decentralised, *, directed: bool = False) -> Schedule:
    topology = exponential(PARTIES) if directed else ring(PARTIES)
    return Schedule(topology, push_sum if strategy.directed else None, lazy=strategy.lazy)


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_all_come_near_the_optimum_of_all_parties(make: Callable[[], Decentralised]) -> None:
    world = World(make(), schedule(make())).run(500)
    assert (world.models - world.optimum).norm(dim=1).max() < 0.6 * world.b.norm(dim=1).max()
    assert (world.models.mean(0) - world.optimum).norm() < 0.35
    torch.testing.assert_close(world.rows[MODEL][:, TRAINABLE:], torch.full((PARTIES, 3), 500.0).double())


@pytest.mark.parametrize(("make", "steps"), [(D2, 1), (GradientTracking, 1), (GradientTracking, 3)])
def test_corrected_ones_reach_it_where_plain_gossip_is_biased(
    make: Callable[[], Decentralised], steps: int
) -> None:
    exact = World(make(), schedule(make()), steps=steps).run(500)
    plain = World(DPSGD(), schedule(DPSGD()), steps=steps).run(500)
    torch.testing.assert_close(exact.models, exact.optimum.expand(PARTIES, -1), rtol=0, atol=1e-6)
    assert (plain.models - plain.optimum).norm(dim=1).max() > 0.05


@pytest.mark.parametrize("make", [DPSGD, SGP, QuasiGlobal, GradientTracking])
def test_over_a_complete_graph_all_hold_the_mean(make: Callable[[], Decentralised]) -> None:
    strategy = make()
    rule = push_sum if strategy.directed else None
    world = World(strategy, Schedule(complete(PARTIES), rule)).run(7)
    torch.testing.assert_close(world.models, world.models.mean(0).expand(PARTIES, -1))


def test_gradient_push_is_unbiased_where_degrees_differ() -> None:
    """A directed graph whose columns sum to one, and whose rows do not: the plain mean would be biased."""
    edges = {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (0, 4)}
    uneven = Schedule(fixed("uneven", Graph(PARTIES, frozenset(edges))), push_sum)
    assert not uneven.doubly_stochastic
    world = World(SGP(), uneven)
    world.rows[MODEL][:, 0] = torch.arange(PARTIES).double()
    world.rate = 0.0
    world.run(200)
    torch.testing.assert_close(world.rows[MODEL][:, 0], torch.full((PARTIES,), 2.5).double())
    assert world.rows[MASS].std() > 0.1
    torch.testing.assert_close(world.rows[MASS].sum(), torch.tensor(float(PARTIES)).double())


def test_corrections_sum_to_zero() -> None:
    world = World(GradientTracking(), schedule(GradientTracking()), steps=2).run(5)
    total = torch.stack([own.kept["correction"] for own in world.own]).sum(0)
    torch.testing.assert_close(total, torch.zeros_like(total))
    assert world.own[0].kept["correction"].norm() > 0.1


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_work_that_is_not_finite_is_forgotten(make: Callable[[], Decentralised]) -> None:
    """Its party keeps its model, mixes it, and goes on as before when its work is sound again."""
    world = World(make(), schedule(make()))
    world.run(3)
    world.unsound = frozenset({2})
    world.run(3)
    assert all(rows.isfinite().all() for rows in world.rows.values())
    world.unsound = frozenset()
    world.run(500)
    assert (world.models.mean(0) - world.optimum).norm() < 0.35


def test_quasi_global_momentum_of_zero_is_plain_gossip() -> None:
    plain, other = World(DPSGD(), schedule(DPSGD())), World(QuasiGlobal(momentum=0.0), schedule(DPSGD()))
    torch.testing.assert_close(plain.run(20).models, other.run(20).models)


def test_overlap_mixes_what_the_round_began_with() -> None:
    world = World(DPSGD(overlap=True), schedule(DPSGD()))
    world.run(3)
    before = world.rows[MODEL].clone()
    updates = torch.zeros_like(before)
    updates[:, :TRAINABLE] = -world.rate * world.a * (before[:, :TRAINABLE] - world.b)
    updates[:, TRAINABLE:] = 1.0
    world.step()
    matrix = torch.from_numpy(world.schedule.matrix(3).dense())
    torch.testing.assert_close(world.rows[MODEL], matrix @ before + updates)


def lose(world: World, gone: frozenset[int]) -> Tensor:
    """Parties leave for good; the optimum of those that remain."""
    world.gone = gone
    for i, own in enumerate(world.own):
        if i not in gone:
            world.strategy.bereave(own, TRAINABLE)
    left = [i for i in range(PARTIES) if i not in gone]
    return (world.a[left] * world.b[left]).sum(0) / world.a[left].sum()


@pytest.mark.parametrize("make", [D2, GradientTracking])
def test_corrected_ones_reach_the_optimum_of_those_that_remain(make: Callable[[], Decentralised]) -> None:
    world = World(make(), schedule(make())).run(100)
    optimum = lose(world, frozenset({1}))
    world.run(800)
    left = world.models[[i for i in range(PARTIES) if i != 1]]
    torch.testing.assert_close(left, optimum.expand(len(left), -1), rtol=0, atol=1e-5)


def test_push_sum_stays_unbiased_over_those_that_remain() -> None:
    edges = {(i, (i + step) % PARTIES) for i in range(PARTIES) for step in (1, 2)} | {(0, 4)}
    world = World(SGP(), Schedule(fixed("uneven", Graph(PARTIES, frozenset(edges))), push_sum), rate=0.0)
    world.rows[MODEL][:, 0] = torch.arange(PARTIES).double() ** 2
    world.run(2)
    left = [i for i in range(PARTIES) if i != 3]
    mass, values = world.rows[MASS][left, 0], world.rows[MODEL][left, 0]
    wanted = float((mass * values).sum() / mass.sum())
    lose(world, frozenset({3}))
    world.run(300)
    torch.testing.assert_close(world.rows[MODEL][left, 0], torch.full((5,), wanted).double())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_parties_begin_with_the_model_and_an_exact_weight(count: int) -> None:
    model = FlatModel(nn.Linear(2, 1))
    rows = buffers_of(SGP(), model, count)
    assert {name: (tuple(of.shape), of.dtype) for name, of in rows.items()} == {
        MODEL: ((count, model.n), torch.float32),
        MASS: ((count, 1), torch.float64),
    }
    assert all(row.equal(model.values) for row in rows[MODEL])
    assert not rows[MASS].any()
    one = buffers_of(GradientTracking(), FlatModel(nn.Linear(1, 1, bias=False)), count)
    assert {of.dtype for of in one.values()} == {torch.float32}
