"""Per-step optimisers train: digits, on ranks that are threads, against the same steps without loss."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pytest
import torch
from laws.optimizer_laws import WARMUP, run, set_up
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hpc_fl.collectives.front_door import reduction
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks
from hpc_fl.compression import Identity, OneBit
from hpc_fl.compression.base import Base
from hpc_fl.data.digits import digits
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers import Moments, OneBitAdam, OneBitLamb, ZeroOneAdam

RANKS: Final = 2
STEPS: Final = 120
MARGIN: Final = 0.08
"""How much higher the training loss may be than that of dense Adam, or LAMB, after the same steps."""


@cache
def samples() -> tuple[Tensor, Tensor]:
    train = digits().train
    x, y = map(torch.from_numpy, train.rows(np.arange(len(train))))
    return x.flatten(1), y


def network() -> nn.Module:
    """64-32-10, always the same one: threads share the global generator."""
    module = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.15, 0.15, generator=rng)
    return module


def trained(kind: type[Moments], codec: Base, **options: Any) -> float:
    """The loss over all samples after STEPS steps of batches of 32, the same whatever the optimiser."""
    x, y = samples()

    def work(transport: InProcessTransport) -> Tensor:
        model = FlatModel(network())
        optimizer = kind(model, reduction(transport), reduction(transport, codec), **options)
        rng = torch.Generator().manual_seed(transport.rank)
        for _ in range(STEPS):
            rows = torch.randint(len(x) // RANKS, (32,), generator=rng) * RANKS + transport.rank
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return model.params.clone()

    one, two = run_ranks(RANKS, work)
    assert one.equal(two)
    model = FlatModel(network())
    model.load(one)
    return float(cross_entropy(model(x), y).detach())


@cache
def dense(kind: type[OneBitAdam | OneBitLamb], lr: float) -> float:
    return trained(kind, Identity(), warmup=STEPS, lr=lr)


@pytest.mark.parametrize("codec", [OneBit(), OneBit(block=64)], ids=["one scale", "blocks"])
@pytest.mark.parametrize("lr", [0.003, 0.01])
def test_onebit_adam_learns_as_adam_does(lr: float, codec: Base) -> None:
    loss = trained(OneBitAdam, codec, warmup=STEPS // 4, lr=lr)
    assert loss < dense(OneBitAdam, lr) + MARGIN < 0.5


def test_onebit_lamb_learns_as_lamb_does() -> None:
    loss = trained(OneBitLamb, OneBit(), warmup=STEPS // 4, lr=0.03)
    assert loss < dense(OneBitLamb, 0.03) + MARGIN < 0.5


def test_zero_one_adam_learns_as_adam_does() -> None:
    schedule = {"kappa": 8, "freeze": STEPS // 3, "doubling": STEPS // 4, "longest": 4}
    loss = trained(ZeroOneAdam, OneBit(), lr=0.01, **schedule)
    assert loss < dense(OneBitAdam, 0.01) + MARGIN < 0.5


@pytest.mark.parametrize(("preconditioned", "holds"), [(True, True), (False, False)])
def test_one_bit_makes_no_large_steps_of_small_gradients(preconditioned: bool, holds: bool) -> None:
    """Gradients are 1e-3 to 10 here. The error of the large ones must not become a step of the small ones."""

    def work(transport: InProcessTransport) -> float:
        def make(*given: Any, **options: Any) -> Moments:
            return OneBitAdam(*given, warmup=WARMUP, **options)

        flat, optimizer, _ = set_up(transport, make, preconditioned=preconditioned)
        seen = torch.stack(run(transport, flat, optimizer, 20))
        return float(seen.diff(dim=0)[WARMUP:].abs().max()) / optimizer.lr

    assert all((farthest < 10) == holds for farthest in run_ranks(3, work))
