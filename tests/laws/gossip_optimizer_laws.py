"""What optimisers with gossip must do, for any number of ranks. Every rank calls each law with its
transport.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn

from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, TopK
from hpc_fl.errors import CheckpointError, ConfigError, TopologyError
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers import AsynchronousOptimizer, DecentralisedOptimizer, SynchronousOptimizer
from hpc_fl.strategies import ADPSGD, D2, DPSGD, SGP, GradientTracking, QuasiGlobal
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import (
    Topology,
    complete,
    directed_ring,
    exponential,
    one_peer_exponential,
    push_sum,
    ring,
    star,
)

FEATURES: Final = 9
WANTED: Final = torch.zeros(2, FEATURES)
"""The regression's true weights."""

WANTED[0, 0] = WANTED[1, 1] = 2.0
WANTED[0, 2] = WANTED[1, 3] = -1.0


@dataclass(frozen=True)
class Way:
    """A topology over the ranks, and the options of the optimiser."""

    topology: Callable[[int], Topology]
    options: Callable[[], dict[str, Any]]


WAYS: Final[dict[str, Way]] = {
    "plain": Way(ring, dict),
    "every third": Way(one_peer_exponential, lambda: {"every": 3}),
    "overlap": Way(exponential, lambda: {"strategy": DPSGD(overlap=True)}),
    "overlap, every second": Way(ring, lambda: {"strategy": DPSGD(overlap=True), "every": 2}),
    "push": Way(directed_ring, lambda: {"strategy": SGP()}),
    "exact diffusion": Way(ring, lambda: {"strategy": D2()}),
    "tracking": Way(ring, lambda: {"strategy": GradientTracking(), "every": 2}),
    "quasi-global": Way(exponential, lambda: {"strategy": QuasiGlobal(0.5, 0.5)}),
    "choco": Way(ring, lambda: {"codec": TopK(ratio=0.3)}),
    "choco, overlap": Way(ring, lambda: {"strategy": DPSGD(overlap=True), "codec": TopK(ratio=0.3)}),
    "squeeze": Way(one_peer_exponential, lambda: {"codec": TopK(ratio=0.5)}),
    "half": Way(ring, lambda: {"codec": BF16()}),
}


def linear() -> FlatModel:
    """The same on every rank, in whatever order threads make it."""
    model = FlatModel(nn.Linear(FEATURES, 2))
    model.load(0.3 * torch.randn(model.n, generator=torch.Generator().manual_seed(3)))
    return model


def optimizer_of(
    transport: Transport, way: Way, *, lr: float = 0.05, momentum: float = 0.0, ledger: Ledger | None = None
) -> DecentralisedOptimizer:
    model = linear()
    sgd = torch.optim.SGD(model.parameters, lr=lr, momentum=momentum)
    return DecentralisedOptimizer(
        model, sgd, transport, way.topology(transport.size), ledger=ledger, **way.options()
    )


def sample(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """A rank's batch of a regression, with an offset of the rank's own."""
    draw = torch.Generator().manual_seed(1000 * step + rank)
    x = torch.randn(16, FEATURES, generator=draw)
    return x, x @ WANTED.t() + 0.3 * rank


def train(
    optimizer: AsynchronousOptimizer | DecentralisedOptimizer | SynchronousOptimizer,
    transport: Transport,
    steps: range,
) -> None:
    for step in steps:
        x, y = sample(transport.rank, step)
        loss = (optimizer.model(x) - y).square().mean()
        loss.backward()
        optimizer.step()


def law_over_a_complete_graph_it_is_synchronous_sgd(transport: Transport) -> None:
    for options in (dict, lambda: {"strategy": SGP()}, lambda: {"strategy": GradientTracking()}):
        mixed = optimizer_of(transport, Way(complete, options))
        model = linear()
        sgd = torch.optim.SGD(model.parameters, lr=0.05)
        agreed = SynchronousOptimizer(model, sgd, transport)
        train(mixed, transport, range(6))
        train(agreed, transport, range(6))
        torch.testing.assert_close(mixed.model.values, model.values, rtol=1e-4, atol=1e-5)
        mixed.close()
        agreed.close()


def law_every_way_learns(transport: Transport) -> None:
    """The mean of the ranks' models comes near the least squares of all ranks' data."""
    for name, way in WAYS.items():
        optimizer = optimizer_of(transport, way)
        train(optimizer, transport, range(80))
        weights = optimizer.model.segments[0].of(optimizer.consensus())
        assert (weights - WANTED).abs().max() < 0.15, name
        optimizer.close()


def law_ranks_that_average_in_pairs_make_steps_of_their_own(transport: Transport) -> None:
    """A fast rank makes more of them; nobody waits, and all learn."""
    ledger, model = Ledger(), linear()
    sgd = torch.optim.SGD(model.parameters, lr=0.05)
    optimizer = AsynchronousOptimizer(model, sgd, transport, ring(transport.size), ledger=ledger, timeout=60)
    train(optimizer, transport, range(100 + 30 * transport.rank))
    optimizer.finish()
    weights = model.segments[0].of(optimizer.consensus())
    assert (weights - WANTED).abs().max() < 0.25
    assert optimizer.steps == 100 + 30 * transport.rank
    if transport.size > 1:
        assert optimizer.averages > 0
        assert ledger.take()["gossip"] % (4 * model.n) == 0
        fresh = linear()
        with pytest.raises(ConfigError, match="undirected"):
            AsynchronousOptimizer(
                fresh, torch.optim.SGD(fresh.parameters), transport, exponential(transport.size + 3)
            )


def law_models_mix_after_every_so_many_steps(transport: Transport) -> None:
    optimizer = optimizer_of(transport, Way(complete, lambda: {"every": 3}))
    for step in range(6):
        train(optimizer, transport, range(step, step + 1))
        distance = (optimizer.model.values - optimizer.consensus()).norm()
        assert bool(distance < 1e-5) == (step % 3 == 2 or transport.size == 1)
    optimizer.close()


def law_an_exchange_with_one_peer_sends_the_model_once(transport: Transport) -> None:
    ledger = Ledger()
    optimizer = optimizer_of(transport, Way(one_peer_exponential, dict), ledger=ledger)
    train(optimizer, transport, range(1))
    ledger.take()  # and what its ranks agreed on first
    train(optimizer, transport, range(1, 6))
    expected = 0 if transport.size == 1 else 5 * 4 * optimizer.model.n
    assert ledger.take() == {"gossip": expected}
    optimizer.close()


def law_it_goes_on_from_its_state(transport: Transport) -> None:
    for name, way in WAYS.items():
        whole = optimizer_of(transport, way)
        train(whole, transport, range(7))
        first = optimizer_of(transport, way)
        train(first, transport, range(4))
        second = optimizer_of(transport, way)
        second.model.load(first.model.values)
        second.load_state_dict(first.state_dict())
        train(second, transport, range(4, 7))
        assert torch.equal(second.model.values, whole.model.values), name
        for optimizer in (whole, first, second):
            optimizer.close()


def law_a_gradient_that_is_not_finite_makes_no_step(transport: Transport) -> None:
    for name, way in WAYS.items():
        optimizer = optimizer_of(transport, way, momentum=0.5)
        train(optimizer, transport, range(2))
        x, y = sample(transport.rank, 2)
        bad = transport.rank == transport.size - 1
        ((optimizer.model(x) - y).square().mean() * (float("nan") if bad else 1.0)).backward()
        assert optimizer.step() is not bad, name
        train(optimizer, transport, range(3, 8))
        assert optimizer.consensus().isfinite().all(), name
        optimizer.close()


def normalised() -> FlatModel:
    """A model with averaged buffers, the same on every rank."""
    model = FlatModel(nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 2)))
    model.params.copy_(torch.linspace(-1, 1, model.trainable))
    return model


def law_a_batch_that_is_not_finite_does_not_spoil_averaged_buffers(transport: Transport) -> None:
    model = normalised()
    sgd = torch.optim.SGD(model.parameters, lr=0.01)
    optimizer = DecentralisedOptimizer(model, sgd, transport, ring(transport.size))
    for step in range(4):
        x = sample(transport.rank, step)[0]
        bad = step == 1 and transport.rank == 0
        model(x / 0 if bad else x).sum().backward()
        assert optimizer.step() is not bad
    assert model.values.isfinite().all()
    optimizer.close()


def law_pairs_average_the_statistics_of_batches_too(transport: Transport) -> None:
    model = normalised()
    sgd = torch.optim.SGD(model.parameters, lr=0.01)
    optimizer = AsynchronousOptimizer(model, sgd, transport, ring(transport.size), timeout=60)
    for step in range(60):
        model(sample(transport.rank, step)[0] + 5).sum().backward()
        optimizer.step()
    optimizer.finish()
    mean = model.buffer_segments[0].of(optimizer.consensus())
    torch.testing.assert_close(mean, torch.full((FEATURES,), 5.0), rtol=0, atol=0.5)


def law_weights_that_an_algorithm_cannot_mix_are_refused(transport: Transport) -> None:
    size = transport.size
    if size < 3:
        return  # any two nodes are an undirected pair
    model = linear()
    sgd = torch.optim.SGD(model.parameters, lr=0.1)
    with pytest.raises(TopologyError, match="D2 needs"):
        DecentralisedOptimizer(model, sgd, transport, directed_ring(size), strategy=D2())
    with pytest.raises(ConfigError, match="AsynchronousOptimizer"):
        DecentralisedOptimizer(model, sgd, transport, ring(size), strategy=ADPSGD())
    graph = star(size)
    pushed = replace(graph, given=push_sum(graph.graph(0)))
    with pytest.raises(TopologyError, match="DPSGD cannot mix"):
        DecentralisedOptimizer(model, sgd, transport, pushed)
    DecentralisedOptimizer(model, sgd, transport, pushed, strategy=SGP()).close()


def law_a_model_may_have_one_parameter(transport: Transport) -> None:
    for strategy in (DPSGD(), GradientTracking(), SGP()):
        model = FlatModel(nn.Linear(1, 1, bias=False))
        model.load(torch.ones(1))
        sgd = torch.optim.SGD(model.parameters, lr=0.1)
        optimizer = DecentralisedOptimizer(model, sgd, transport, ring(transport.size), strategy=strategy)
        for _ in range(40):
            (model(torch.ones(1, 1)) - 3).square().sum().backward()
            optimizer.step()
        assert float(model.values) == pytest.approx(3, abs=0.01)
        optimizer.close()


def law_bad_input_is_refused(transport: Transport) -> None:
    model = linear()
    sgd = torch.optim.SGD(model.parameters, lr=0.1)
    with pytest.raises(ConfigError, match="the number of ranks"):
        DecentralisedOptimizer(model, sgd, transport, complete(transport.size + 1))
    with pytest.raises(ConfigError, match=r"make it with model\.parameters"):
        SynchronousOptimizer(model, torch.optim.SGD([torch.zeros(1, requires_grad=True)]), transport)
    if transport.size > 1:
        other = linear()
        other.values[0] += transport.rank == 1
        with pytest.raises(ConfigError, match="rank 1 begins with other parameters"):
            SynchronousOptimizer(other, torch.optim.SGD(other.parameters, lr=0.1), transport)
    half = FlatModel(nn.Linear(2, 2).bfloat16())
    with pytest.raises(ConfigError, match=r"module.float\(\)"):
        SynchronousOptimizer(half, torch.optim.SGD(half.parameters), transport)
    plain, tracking = (optimizer_of(transport, WAYS[name]) for name in ("plain", "tracking"))
    with pytest.raises(CheckpointError, match=r"row.tracker: nothing found"):
        tracking.load_state_dict(plain.state_dict())
    plain.close()
    tracking.close()


LAWS = [value for name, value in list(globals().items()) if name.startswith("law_")]
