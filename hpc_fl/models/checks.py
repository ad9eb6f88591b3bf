"""Checks of the arguments that all models share."""

from collections.abc import Sequence

from hpc_fl.errors import ModelError


def check_outputs(classes: int) -> None:
    """ModelError where a model would have no output."""
    if classes < 1:
        raise ModelError(f"classes={classes}: a model needs at least 1 output (regression: 1)")


def check_widths(name: str, widths: Sequence[int]) -> None:
    """ModelError where a layer would have no width."""
    if any(width < 1 for width in widths):
        raise ModelError(f"{name}={list(widths)}: each must be at least 1")


def check_image(model: str, input_shape: tuple[int, ...]) -> None:
    """ModelError where a sample is not an image of shape (channels, height, width)."""
    if len(input_shape) != 3:
        raise ModelError(
            f"{model} takes samples (channels, height, width), not {input_shape}: use mlp or logistic"
        )
