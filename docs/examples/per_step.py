"""Data-parallel training step by step, with 1-bit Adam: `mpirun -n 4 python docs/examples/per_step.py`."""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hpc_fl import FlatModel
from hpc_fl.collectives import reduction
from hpc_fl.comm.runtime import start
from hpc_fl.compression import OneBit
from hpc_fl.data.digits import digits
from hpc_fl.optimizers import OneBitAdam
from hpc_fl.telemetry import Ledger

world, data, sent = start(), digits(), Ledger()
x, y = map(torch.from_numpy, data.train.rows(np.arange(world.rank, len(data.train), world.size)))
torch.manual_seed(0)  # all ranks begin with the same parameters
layers = torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
model = FlatModel(torch.nn.Sequential(*layers))
dense, compressed = reduction(world, ledger=sent), reduction(world, OneBit(), ledger=sent)
optimizer = OneBitAdam(model, dense, compressed, warmup=20, lr=0.01)
torch.manual_seed(1 + world.rank)  # and draw batches of their own
for _ in range(100):
    batch = torch.randint(len(x), (32,))
    cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
x, y = map(torch.from_numpy, data.test.rows(np.arange(len(data.test))))
accuracy = (model(x).argmax(1) == y).float().mean()
print(f"accuracy {accuracy:.4f}, {sent.total / optimizer.steps / model.n:.2f} bytes a step and parameter")
