"""The functions that own_code.yaml names: data, model and loss of a user's own."""

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

Float32Array = npt.NDArray[np.float32]


def waves(samples: int, length: int) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
    """Noisy sine waves to tell the frequency of: x (n, 1, length), y (n, 1); a sixth is for testing.

    Every rank calls it and must get the same arrays: hence the seed.
    """
    rng = np.random.default_rng(0)
    frequency = rng.uniform(1, 4, (samples, 1))
    phase = rng.uniform(0, 2 * np.pi, (samples, 1))
    x = np.sin(2 * np.pi * frequency * np.linspace(0, 1, length) + phase)
    x = (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32)[:, None]
    y = frequency.astype(np.float32)
    held_out = samples // 6
    return x[held_out:], y[held_out:], x[:held_out], y[:held_out]


def network(length: int, width: int) -> nn.Module:
    """A one-dimensional CNN, (b, 1, length) -> (b, 1)."""
    return nn.Sequential(
        nn.Conv1d(1, width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(width * (length // 2), 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )


def huber(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss a sample, (b,): the mean over the batch is taken by the trainer, which weighs samples."""
    return smooth_l1_loss(outputs, targets, reduction="none", beta=0.1).flatten(1).mean(1)
