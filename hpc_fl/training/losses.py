"""Losses, one value per sample, with the gradient at the model's output in closed form.

Per-sample losses let a batch carry weights: incomplete batches, and many parties in one product. The closed
form saves the executor that trains many parties at once a third of its operations (no graph through the
loss).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
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

    def gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each party's weighted loss at its outputs (B, b, *out), and before it what
        :meth:`value` makes the losses of, of the same shape.

        ``prepared``: from :meth:`prepare`, for these B parties and b samples.
        """
        ...

    def value(self, kept: Tensor, *prepared: Tensor) -> Tensor:
        """The weighted loss of each party over S steps, (B,): worked out together they take a call, not S.

        ``kept`` (S, B, b, *out): from :meth:`gradient`, ``prepared`` (S, B, b, ...) likewise.
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
        if targets.dim() > weights.dim():
            weights = _fit(weights / prod(targets.shape[weights.dim() :]), targets)
        spread = weights.unsqueeze(-1)
        return targets.unsqueeze(-1), spread, -spread

    def gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        index, weight, minus_weight = prepared
        log_p = torch.log_softmax(outputs, -1)
        return log_p, log_p.exp().mul_(weight).scatter_add_(-1, index, minus_weight)

    def value(self, kept: Tensor, *prepared: Tensor) -> Tensor:
        index, _, minus_weight = prepared
        return _by_party(kept.gather(-1, index).mul_(minus_weight))


class MeanSquaredError:
    """Mean over the outputs of (output - target)^2; float32 targets of the outputs' shape (or without a last
    dimension of 1).
    """

    classifies = False

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return _over_positions((outputs - targets.reshape(outputs.shape)).square(), 1)

    def prepare(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return targets, weights

    def gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        targets, weights = prepared
        difference = outputs - targets.reshape(outputs.shape)
        return difference, difference * self._shares(difference, weights).mul(2.0)

    def value(self, kept: Tensor, *prepared: Tensor) -> Tensor:
        return _by_party(kept.square().mul_(self._shares(kept, prepared[1])))

    @staticmethod
    def _shares(difference: Tensor, weights: Tensor) -> Tensor:
        """The weight of each output in its party's loss."""
        outputs = prod(difference.shape[weights.dim() :])
        return _fit(weights / outputs, difference)


def _by_party(values: Tensor) -> Tensor:
    """The sum of (S, B, ...) over all but the parties, (B,)."""
    return values.sum((0, *range(2, values.dim())))


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

    def gradient(self, outputs: Tensor, *prepared: Tensor) -> tuple[Tensor, Tensor]:
        raise ModelError(
            "a loss function of one's own has no closed form: its per_sample() is differentiated"
        )

    def value(self, kept: Tensor, *prepared: Tensor) -> Tensor:
        raise ModelError("a loss function of one's own has no closed form: its values are per_sample()'s")


LOSSES: Final[dict[str, Loss]] = {"cross_entropy": CrossEntropy(), "mse": MeanSquaredError()}
"""Losses by the names that a configuration uses."""
