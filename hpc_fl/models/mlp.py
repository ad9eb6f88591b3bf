"""A multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from hpc_fl.models.checks import check_outputs, check_widths


def mlp(input_shape: tuple[int, ...], classes: int, *, hidden: Sequence[int] = (64,)) -> nn.Module:
    """x float32 (b, *input_shape), flattened -> logits (b, classes), with a ReLU after each hidden layer.

    Raises ModelError for classes < 1 or a hidden layer without width.
    """
    check_outputs(classes)
    check_widths("hidden", hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for width, wider in pairwise((prod(input_shape), *hidden)):
        layers += [nn.Linear(width, wider), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear((prod(input_shape), *hidden)[-1], classes))
