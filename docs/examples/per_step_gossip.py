"""From allreduce to gossip in one line: `mpirun -n 4 python docs/examples/per_step_gossip.py [allreduce]`."""

import sys

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from hpc_fl import FlatModel
from hpc_fl.comm.runtime import start
from hpc_fl.data.digits import digits
from hpc_fl.optimizers import DecentralisedOptimizer, SynchronousOptimizer
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import one_peer_exponential

world, data, sent = start(), digits(), Ledger()
x, y = map(torch.from_numpy, data.train.rows(np.arange(world.rank, len(data.train), world.size)))
torch.manual_seed(0)  # all ranks begin with the same parameters
layers = torch.nn.Flatten(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
model = FlatModel(torch.nn.Sequential(*layers))
sgd = torch.optim.SGD(model.parameters, lr=0.1, momentum=0.9)
optimizer: DecentralisedOptimizer | SynchronousOptimizer
if sys.argv[1:] == ["allreduce"]:
    optimizer = SynchronousOptimizer(model, sgd, world, ledger=sent)
else:
    optimizer = DecentralisedOptimizer(model, sgd, world, one_peer_exponential(world.size), ledger=sent)
torch.manual_seed(1 + world.rank)  # and draw batches of their own
for _ in range(150):
    batch = torch.randint(len(x), (32,))
    cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
model.load(optimizer.consensus())  # the mean of all ranks' models, to evaluate or to keep
x, y = map(torch.from_numpy, data.test.rows(np.arange(len(data.test))))
accuracy = (model(x).argmax(1) == y).float().mean()
print(f"accuracy {accuracy:.4f}, {sent.total / 150 / model.n:.2f} bytes a step and parameter")
optimizer.close()
