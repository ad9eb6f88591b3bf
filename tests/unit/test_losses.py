"""Closed-form gradients against autograd, and against torch's own losses."""

import pytest
import torch
from torch import Tensor, nn

from hpc_fl.errors import ModelError
from hpc_fl.training.losses import CrossEntropy, CustomLoss, Loss, MeanSquaredError

CASES = [
    (CrossEntropy(), (3, 4, 5), lambda: torch.randint(0, 5, (3, 4))),
    (CrossEntropy(), (2, 3, 7, 5), lambda: torch.randint(0, 5, (2, 3, 7))),
    (MeanSquaredError(), (3, 4, 2), lambda: torch.randn(3, 4, 2)),
    (MeanSquaredError(), (3, 4, 1), lambda: torch.randn(3, 4)),
]


@pytest.mark.parametrize("case", CASES, ids=["classes", "tokens", "vector", "scalar"])
def test_the_closed_form_is_the_gradient_of_the_weighted_loss(
    case: tuple[Loss, tuple[int, ...], object],
) -> None:
    loss, shape, make = case
    outputs = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert callable(make)
    targets: Tensor = make()
    targets = targets.double() if targets.is_floating_point() else targets
    weights = torch.rand(shape[:2], dtype=torch.float64)
    per_party = torch.stack(
        [(loss.per_sample(o, t) * w).sum() for o, t, w in zip(outputs, targets, weights, strict=True)]
    )
    per_party.sum().backward()
    prepared = loss.prepare(targets, weights)
    assert prepared is not None
    kept, gradient = loss.gradient(outputs.detach().clone(), *prepared)
    torch.testing.assert_close(gradient, outputs.grad)
    twice = loss.value(torch.stack([kept, kept]), *(torch.stack([p, p]) for p in prepared))
    torch.testing.assert_close(twice, 2 * per_party.detach())


def test_cross_entropy_is_torchs() -> None:
    outputs, targets = torch.randn(6, 4), torch.randint(0, 4, (6,))
    torch.testing.assert_close(
        CrossEntropy().per_sample(outputs, targets),
        nn.functional.cross_entropy(outputs, targets, reduction="none"),
    )


def test_a_reduced_loss_is_refused() -> None:
    loss = CustomLoss(nn.functional.mse_loss)
    with pytest.raises(ModelError, match="one loss per sample"):
        loss.per_sample(torch.randn(3, 2), torch.randn(3, 2))
