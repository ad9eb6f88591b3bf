"""ResNet-18 with the stem for small images (one 3x3 convolution, no pooling).

He et al., Deep residual learning for image recognition, CVPR 2016. Group normalisation keeps no statistics of
the data, which differ between parties: Hsieh et al., The non-IID data quagmire of decentralized machine
learning, ICML 2020.
"""

from collections.abc import Callable
from itertools import pairwise
from math import gcd
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from hpc_fl.errors import ModelError
from hpc_fl.models.checks import check_image, check_outputs, check_widths

_BLOCKS_PER_STAGE: Final = 2
_MOST_GROUPS: Final = 32


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(gcd(_MOST_GROUPS, channels), channels)


NORMS: Final[dict[str, Callable[[int], nn.Module]]] = {"batch": nn.BatchNorm2d, "group": _group_norm}


def resnet18(
    input_shape: tuple[int, ...], classes: int, *, norm: str = "batch", width: int = 64
) -> nn.Module:
    """x float32 (b, channels, height, width) -> logits (b, classes); four stages of width, 2, 4 and 8 times
    width.

    norm: "batch", or "group" (32 groups, fewer where 32 does not divide the channels), which torch.func.vmap
    needs in training since batch normalisation updates its statistics in place. Raises ModelError for an
    unknown norm, samples that are no images, or sizes below 1.
    """
    check_image("resnet18", input_shape)
    check_outputs(classes)
    check_widths("width", (width,))
    if norm not in NORMS:
        raise ModelError(f"norm={norm!r}: use one of {', '.join(NORMS)}")
    make_norm = NORMS[norm]
    blocks: list[nn.Module] = []
    for stage, (inputs, outputs) in enumerate(pairwise((width, width, 2 * width, 4 * width, 8 * width))):
        for number in range(_BLOCKS_PER_STAGE):
            first = number == 0
            blocks.append(
                _Block(inputs if first else outputs, outputs, 2 if first and stage > 0 else 1, make_norm)
            )
    return nn.Sequential(
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        make_norm(width),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


class _Block(nn.Module):
    """relu(x + norm(conv(relu(norm(conv(x)))))), with a 1x1 convolution on x where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            make_norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            make_norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x) + self.residual(x))
