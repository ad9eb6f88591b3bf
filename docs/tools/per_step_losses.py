"""Prints the table of docs/algorithms/per-step.md: `python docs/tools/per_step_losses.py`.

What the per-step optimisers reach on digits; the four ranks are threads of this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from hpc_fl.collectives import reduction
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks
from hpc_fl.compression import OneBit
from hpc_fl.data import digits
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers import Moments, OneBitAdam, OneBitLamb, ZeroOneAdam
from hpc_fl.telemetry import Ledger

RANKS: Final = 4
STEPS: Final = 200
SEEDS: Final = (1, 2, 3)
AS_IS: Final = {"preconditioned": False}
WARM: Final = {"warmup": STEPS // 4}
LOCAL: Final = {"kappa": 8, "freeze": STEPS // 4, "doubling": STEPS // 4, "longest": 4}
CASES: Final[tuple[tuple[str, type[Moments], dict[str, Any], tuple[float, ...]], ...]] = (
    ("Adam", OneBitAdam, {"warmup": STEPS}, (0.003, 0.01)),
    ("1-bit Adam", OneBitAdam, WARM, (0.003, 0.01)),
    ("1-bit Adam, `preconditioned=False`", OneBitAdam, WARM | AS_IS, (0.003, 0.01)),
    ("0/1 Adam", ZeroOneAdam, LOCAL, (0.003, 0.01)),
    ("0/1 Adam, `preconditioned=False`", ZeroOneAdam, LOCAL | AS_IS, (0.003, 0.01)),
    ("LAMB", OneBitLamb, {"warmup": STEPS}, (0.01, 0.03)),
    ("1-bit LAMB", OneBitLamb, WARM, (0.01, 0.03)),
    ("1-bit LAMB, `preconditioned=False`", OneBitLamb, WARM | AS_IS, (0.01, 0.03)),
)


def network(seed: int) -> nn.Module:
    """64-64-10; threads share the global generator, so it has one of its own."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.125, 0.125, generator=rng)
    return module


def measured(kind: type[Moments], options: Mapping[str, Any], lr: float, seed: int) -> tuple[float, float]:
    """The loss over all training samples at the end, and the bytes sent by step and parameter."""
    train = digits().train
    x, y = map(torch.from_numpy, train.rows(np.arange(len(train))))

    def work(transport: InProcessTransport) -> tuple[float, float]:
        model, sent = FlatModel(network(seed)), Ledger()
        dense, compressed = reduction(transport, ledger=sent), reduction(transport, OneBit(), ledger=sent)
        optimizer = kind(model, dense, compressed, lr=lr, **options)
        rng = torch.Generator().manual_seed(100 * seed + transport.rank)
        for _ in range(STEPS):
            rows = torch.randint(len(x) // RANKS, (32,), generator=rng) * RANKS + transport.rank
            cross_entropy(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return float(cross_entropy(model(x), y).detach()), sent.total / STEPS / model.n

    return run_ranks(RANKS, work)[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("| optimiser | lr | loss, by seed | bytes a step and parameter |\n|---|---|---|---|")
    for name, kind, options, rates in CASES:
        for lr in rates:
            losses, sent = zip(*(measured(kind, options, lr, seed) for seed in SEEDS), strict=True)
            print(
                f"| {name} | {lr} | {', '.join(f'{loss:.3f}' for loss in losses)} | {sent[0]:.2f} |",
                flush=True,
            )
