"""Losses, one value per sample, with the gradient at the model's output in closed form.

Per-sample losses let a batch carry weights: incomplete batches, and many parties in one product. The closed
form saves the executor that trains many parties at once a third of its operations (no graph through the
loss).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from hpc_fl.errors import ModelError


class Loss(Protocol):
    """A loss over outputs (..., b, *out) and targets (..., b, *target); leading dimensions are parties."""

    classifies: bool
    """Whether the prediction is the largest output: then accuracy can be measured."""

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One loss a sample, (b,), for outputs (b, *out): the mean over a sample's own positions."""
        ...

    def prepare(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...] | None:
        """What the closed form needs of targets (..., b, *target) and weights (..., b); dimensions are kept.

        None where there is no closed form: then autograd differentiates :meth:`per_sample`.
        """
        ...

    def value_and_gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted loss of each party (B,), and its gradient at the outputs (B, b, *out).

        ``prepared``: from :meth:`prepare`, for these B parties and b samples.
        """
        ...


def _over_positions(values: Tensor, dims: int) -> Tensor:
    """The mean over all but the first ``dims`` dimensions."""
    return values.flatten(dims).mean(-1) if values.dim() > dims else values


class CrossEntropy:
    """Softmax cross-entropy: logits (b, ..., C), classes in the last dimension; int64 targets (b, ...)."""

    classifies = True

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        picked = F.log_softmax(outputs, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return -_over_positions(picked, 1)

    def prepare(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        positions = targets.flatten(weights.dim()).shape[-1] if targets.dim() > weights.dim() else 1
        spread = _fit(weights / positions, targets).unsqueeze(-1)
        return targets.unsqueeze(-1), spread, -spread

    def value_and_gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        index, weight, minus_weight = prepared
        log_p = torch.log_softmax(outputs, -1)
        loss = (log_p.gather(-1, index) * minus_weight).sum(tuple(range(1, log_p.dim())))
        return loss, log_p.exp_().mul_(weight).scatter_add_(-1, index, minus_weight)


class MeanSquaredError:
    """Mean over the outputs of (output - target)^2; float32 targets of the outputs' shape (or without a last
    dimension of 1).
    """

    classifies = False

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _over_positions((outputs - targets.reshape(outputs.shape)).square(), 1)

    def prepare(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return targets, weights

    def value_and_gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        targets, weights = prepared
        difference = outputs - targets.reshape(outputs.shape)
        scaled = difference * _fit(weights / difference[0, 0].numel(), difference)
        return (difference * scaled).flatten(1).sum(1), scaled.mul_(2.0)


def _fit(weights: Tensor, like: Tensor) -> Tensor:
    """``weights`` (..., b) expanded to the shape of ``like`` (..., b, *rest)."""
    return weights.reshape(*weights.shape, *(1,) * (like.dim() - weights.dim())).expand(like.shape)


class CustomLoss:
    """A user's function (outputs (b, ...), targets (b, ...)) -> (b,): one loss a sample, no reduction."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], classifies: bool = False) -> None:
        self.function = function
        self.classifies = classifies

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = self.function(outputs, targets)
        if losses.shape != outputs.shape[:1]:
            raise ModelError(
                f"the loss function returned shape {tuple(losses.shape)} for a batch of {outputs.shape[0]}: "
                "return one loss per sample (reduction='none', then the mean over a sample's own positions)"
            )
        return losses

    def prepare(self, targets: Tensor, weights: Tensor) -> None:
        return None

    def value_and_gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        raise ModelError(
            "a loss function of one's own has no closed form: its per_sample() is differentiated"
        )


LOSSES: Final[dict[str, Loss]] = {"cross_entropy": CrossEntropy(), "mse": MeanSquaredError()}
"""Losses by the names that a configuration uses."""
