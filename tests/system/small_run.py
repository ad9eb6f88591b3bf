"""A run that takes seconds: what it computes does not matter, only what happens around it."""

from typing import Final

SMALL: Final = (
    "data.name=synthetic", "data.samples=200", "data.shape=[6]", "data.classes=3", "data.test_samples=40",
    "parties=5", "model=mlp", "training.epochs=1", "training.executor=loop",
)  # fmt: skip
"""Settings for `hpc-fl train`."""
