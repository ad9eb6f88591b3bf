"""Multinomial logistic regression (with one output: linear regression)."""

from math import prod

from torch import nn

from hpc_fl.models.checks import check_outputs


def logistic(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """x float32 (b, *input_shape), flattened -> logits (b, classes). Raises ModelError for classes < 1."""
    check_outputs(classes)
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), classes))
