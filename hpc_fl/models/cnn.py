"""A small convolutional network: convolutions, one pooling, one hidden layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from hpc_fl.errors import ModelError
from hpc_fl.models.checks import check_image, check_outputs, check_widths


def cnn(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    channels: Sequence[int] = (32, 64),
    kernel: int = 3,
    padding: int = 0,
    hidden: int = 128,
    dropout: float = 0.0,
) -> nn.Module:
    """x float32 (b, channels, height, width) -> logits (b, classes).

    A convolution and a ReLU for each of `channels`, max-pooling by 2, a hidden layer with a ReLU, the output;
    dropout before the hidden layer and before the output where it is not 0. Raises ModelError where x is no
    image, where nothing would be left of it after the pooling, or where a size makes no sense.
    """
    check_image("cnn", input_shape)
    check_outputs(classes)
    check_widths("channels", channels)
    check_widths("kernel, hidden", (kernel, hidden))
    if not channels or padding < 0 or not 0 <= dropout < 1:
        raise ModelError(
            f"channels={list(channels)}, padding={padding}, dropout={dropout}: cnn needs channels, "
            "padding >= 0 and a dropout in [0, 1)"
        )
    height, width = (_pooled(size, len(channels), kernel, padding) for size in input_shape[1:])
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((input_shape[0], *channels)):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU()]
    drop = [nn.Dropout(dropout)] if dropout else []
    features = channels[-1] * height * width
    layers += [nn.MaxPool2d(2), nn.Flatten(), *drop, nn.Linear(features, hidden), nn.ReLU()]
    return nn.Sequential(*layers, *drop, nn.Linear(hidden, classes))


def _pooled(size: int, convolutions: int, kernel: int, padding: int) -> int:
    """Pixels along one side after the convolutions and the pooling; ModelError where none would be left."""
    loss = convolutions * (kernel - 1 - 2 * padding)
    if size - loss < 2:
        raise ModelError(
            f"cnn: {convolutions} convolutions of kernel={kernel}, padding={padding} leave {size - loss} of "
            f"{size} pixels, pooling needs 2: use images of {loss + 2} pixels a side or more, or more padding"
        )
    return (size - loss) // 2
