"""Your own model and data in a script: `mpirun -n 4 python docs/examples/own_model.py`."""

import numpy as np
import torch

import hpc_fl


def moons() -> hpc_fl.Dataset:
    """Two interleaved half circles. Every rank makes the same arrays and keeps its own parties' rows."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    angle = np.pi * (rng.random(2000) + y)
    x = np.stack([np.cos(angle) + y, np.sin(angle) + y / 2], axis=1) + 0.1 * rng.normal(size=(2000, 2))
    return hpc_fl.from_arrays("moons", x[:1600], y[:1600], x[1600:], y[1600:])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = torch.nn.Linear(2, 32), torch.nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.relu(self.hidden(x)))
        return logits


config = hpc_fl.make_config({"name": "moons", "rounds": 10, "training": {"optimizer": {"lr": 0.5}}})
result = hpc_fl.train(config, model=Net, dataset=moons)
print(f"accuracy {result.accuracy:.3f}, on every rank")
