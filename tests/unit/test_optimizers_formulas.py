"""Per-step optimisers against their formulas, written out plainly, on ranks that are threads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from laws.optimizer_laws import IDLE, MAKERS, WARMUP, gradient, model, run, set_up
from torch import Tensor, nn

from hpc_fl.comm.inprocess import InProcessTransport, run_ranks
from hpc_fl.compression import Identity
from hpc_fl.compression.base import Base
from hpc_fl.optimizers import Moments, OneBitAdam, ZeroOneAdam
from hpc_fl.optimizers.zero_one_adam import exchanges, refreshes

N = model().trainable
STEPS = 14
ranks = pytest.mark.parametrize("size", [1, 2, 3, 4])


def mean_gradient(size: int, step: int) -> Tensor:
    """The mean over the ranks (N,) float64."""
    return sum((gradient(rank, step, N).double() for rank in range(size)), torch.zeros(N).double()) / size


def play(size: int, make: Callable[..., Moments], codec: Base | None = None, **options: Any) -> list[Tensor]:
    """Rank 0's parameters after each step."""

    def work(transport: InProcessTransport) -> list[Tensor]:
        flat, optimizer, _ = set_up(transport, make, codec, **options)
        return run(transport, flat, optimizer, STEPS)

    return run_ranks(size, work)[0]


def close(seen: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(seen.double(), expected.detach().double(), rtol=tolerance, atol=tolerance)


@ranks
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [OneBitAdam, ZeroOneAdam])
def test_warm_up_is_torchs_adam_on_the_mean_gradient(
    kind: type[OneBitAdam | ZeroOneAdam], decay: float, size: int
) -> None:
    dense: dict[str, Any] = {"warmup": STEPS} if kind is OneBitAdam else {"kappa": STEPS}
    seen = play(size, kind, weight_decay=decay, **dense)
    parameter = nn.Parameter(model().params.clone())
    options: dict[str, Any] = {"weight_decay": decay} if decay else {}
    reference = (torch.optim.AdamW if decay else torch.optim.Adam)([parameter], lr=0.01, **options)
    for step, params in enumerate(seen):
        parameter.grad = mean_gradient(size, step).float()
        reference.step()
        close(params, parameter)


@ranks
@pytest.mark.parametrize("preconditioned", [True, False])
def test_onebit_adam_without_loss_is_adam_with_a_frozen_variance(preconditioned: bool, size: int) -> None:
    options = {"preconditioned": preconditioned, "weight_decay": 0.1}
    seen = play(size, MAKERS["onebit adam"], Identity(), **options)
    x, m, v = model().params.double(), torch.zeros(N).double(), torch.zeros(N).double()
    for step, params in enumerate(seen):
        g, t = mean_gradient(size, step), step + 1
        m = 0.9 * m + 0.1 * g
        if step < WARMUP:
            v = 0.999 * v + 0.001 * g**2
            d = (v / (1 - 0.999**t)).sqrt() + 1e-8
        x = (1 - 0.01 * 0.1) * x - 0.01 * m / (1 - 0.9**t) / d
        close(params, x)


@ranks
@pytest.mark.parametrize("preconditioned", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_onebit_lamb_without_loss_is_lamb_and_then_the_refresh_rule(
    decay: float, preconditioned: bool, size: int
) -> None:
    options = {"preconditioned": preconditioned, "weight_decay": decay}
    seen = play(size, MAKERS["onebit lamb"], Identity(), **options)
    flat = model()
    x, m, v = flat.params.double(), torch.zeros(N).double(), torch.zeros(N).double()
    live = torch.arange(N) != IDLE
    average: dict[str, float] = {}
    r: dict[str, float] = {}
    frozen = torch.zeros(0)
    for step, params in enumerate(seen):
        g, t = mean_gradient(size, step), step + 1
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        d = (v / (1 - 0.999**t)).sqrt() + 1e-8
        frozen = d if step < WARMUP else frozen
        u = m / (1 - 0.9**t) / frozen
        for segment in flat.segments:
            name, part = segment.name, slice(segment.start, segment.stop)
            direction = u[part] + decay * x[part]
            if step < WARMUP:
                c = float((x[part].norm() / direction.norm()).clamp(0.01, 10))
                average[name] = 0.9 * average[name] + 0.1 * c if name in average else c
            else:
                fresh = float((frozen / d)[part][live[part]].max())
                share = min(1.0, float(u[part].norm() / direction.norm()))
                fresh = min(max(share * fresh + 1 - share, 0.5), 4.0)
                before = r.get(name, 1.0)
                r[name] = min(max(fresh, 0.9 * before), 1.1 * before)
                c = r[name] * average[name]
            x[part] -= 0.01 * c * direction
        close(params, x, 1e-5)


@ranks
@pytest.mark.parametrize("preconditioned", [True, False])
def test_zero_one_adam_without_loss_is_its_algorithm(preconditioned: bool, size: int) -> None:
    options = {"preconditioned": preconditioned, "weight_decay": 0.1}
    seen = play(size, MAKERS["zero one adam"], Identity(), **options)
    zeros = torch.zeros(size, N).double()
    x, m, u, v = model().params.double().repeat(size, 1), zeros.clone(), zeros.clone(), zeros[0]
    then, rates, kept, taken = x[0].clone(), 0.0, 1.0, 0
    for step, params in enumerate(seen):
        g = torch.stack([gradient(rank, step, N).double() for rank in range(size)])
        rho = 0.01 / (1 - 0.9 ** (step + 1))
        m = 0.9 * m + 0.1 * g
        if step in (0, 1, 2, 4):  # two one step apart, then two steps apart, until freeze = 6
            taken += 1
            m = m.mean(0).repeat(size, 1)
            v = 0.999 * v + 0.001 * g.mean(0) ** 2
            d = (v / (1 - 0.999**taken)).sqrt() + 1e-8
        x = (1 - 0.001) * x - rho * m / d
        u, rates, kept = u + rho * m, rates + rho, kept * (1 - 0.001)
        if step < 6 or step in (6, 7, 9, 11):  # every step, every second, every third
            m = (u.mean(0) / rates).repeat(size, 1)
            x = (kept * then - u.mean(0) / d).repeat(size, 1)
            then, u, rates, kept = x[0].clone(), zeros.clone(), 0.0, 1.0
        close(params, x[0])


@pytest.mark.parametrize("kappa", [1, 2, 16])
def test_refreshes_are_the_papers(kappa: int) -> None:
    expected, step = [], 0
    for j in range(8 * kappa):
        expected.append(step)
        step += 2 ** (j // kappa)
    assert [step for step in range(expected[-1] + 1) if refreshes(step, kappa)] == expected


@pytest.mark.parametrize("longest", [1, 3, 16])
def test_exchanges_become_rarer_up_to_the_longest_interval(longest: int) -> None:
    found = [since for since in range(2000) if exchanges(since, 100, longest)]
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert gaps[:99] == [1] * 99
    assert gaps[-1] == longest
    assert max(gaps) <= max(1, 2 * longest - 1)
