"""The server halves against their formulas, written out in float64."""

import numpy as np
import pytest
import torch

from hpc_fl.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedSGD, FedYogi, Strategy

N, ROUNDS = 11, 5
CPU = torch.device("cpu")


def play(strategy: Strategy) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The parameters after some rounds of random updates, starting from zero; and the updates."""
    rng = torch.Generator().manual_seed(0)
    params, state, updates = torch.zeros(N), strategy.init(N, CPU), []
    for _ in range(ROUNDS):
        updates.append(torch.randn(N, generator=rng))
        strategy.apply(params, {"update": updates[-1].clone()}, state, N)
    return params, [u.double() for u in updates]


def test_fedavg_adds_the_mean() -> None:
    params, updates = play(FedAvg(lr=0.5))
    torch.testing.assert_close(
        params.double(), 0.5 * sum(updates, torch.zeros(N).double()), rtol=1e-5, atol=1e-6
    )


def test_fedavgm_has_heavy_ball_momentum() -> None:
    params, updates = play(FedAvgM(lr=0.5, momentum=0.8))
    x = m = torch.zeros(N).double()
    for u in updates:
        m = 0.8 * m + u
        x = x + 0.5 * m
    torch.testing.assert_close(params.double(), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fedsgd_is_torchs_sgd_on_the_mean_gradient(momentum: float) -> None:
    params, updates = play(FedSGD(lr=0.3, momentum=momentum, weight_decay=0.1))
    reference = torch.nn.Parameter(torch.zeros(N).double())
    optimizer = torch.optim.SGD([reference], lr=0.3, momentum=momentum, weight_decay=0.1)
    for u in updates:
        reference.grad = -u
        optimizer.step()
    torch.testing.assert_close(params.double(), reference.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
def test_the_adaptive_ones_are_algorithm_2_of_reddi_et_al(
    kind: type[FedAdam] | type[FedYogi] | type[FedAdagrad],
) -> None:
    params, updates = play(kind(lr=0.1, beta1=0.8, tau=0.01))
    x = m = torch.zeros(N).double()
    v = torch.full((N,), 0.01**2).double()
    for d in updates:
        m = 0.8 * m + 0.2 * d
        rules = {
            FedAdam: 0.99 * v + 0.01 * d * d,
            FedYogi: v - 0.01 * d * d * torch.sign(v - d * d),
            FedAdagrad: v + d * d,
        }
        v = rules[kind]
        x = x + 0.1 * m / (v.sqrt() + 0.01)
    torch.testing.assert_close(params.double(), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", [FedAvg(), FedAvgM(), FedSGD(), FedAdam(), FedYogi(), FedAdagrad()])
def test_averaged_buffers_are_means_whatever_the_optimiser(strategy: Strategy) -> None:
    params, state = torch.zeros(N + 2), strategy.init(N, CPU)
    strategy.apply(params, {"update": torch.arange(N + 2).float()}, state, N)
    assert params[N:].tolist() == [N, N + 1]


def test_weights() -> None:
    samples = np.array([3, 0, 5])
    assert FedAvg().weights(samples).tolist() == [3, 0, 5]
    assert FedAvg(weighting="equal").weights(samples).tolist() == [1, 0, 1]
