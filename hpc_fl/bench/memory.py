"""``hpc-fl bench memory``: peak memory of a rank that hosts 1,000 parties, above that of a plain process that
trains the same model on the same samples.

A model-sized buffer (80 MB) is the unit. A plain process has two of them: values and gradients. Ours needs
the agreed values and the message besides, however many parties it hosts.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from hpc_fl.bench.launching import run_worker
from hpc_fl.bench.record import Record

BAR: Final = 4.0
PARTIES: Final = 1000
"""On each rank."""
EXECUTORS: Final = ("loop", "auto")
_ROUNDS: Final = 2
_MANY_ROUNDS: Final = 100_000
"""Makes the automatic choice of executor measure both."""


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``executor=loop,auto``, ``ranks=1,2``; ``width=4096`` of the model's two hidden layers;
    ``times=N``: runs of each.
    """
    width, times = options.get("width", "4096"), int(options.get("times", "3"))
    ranks = [int(r) for r in options.get("ranks", "1,2").split(",")]
    cases = [
        (executor, r) for executor in options.get("executor", ",".join(EXECUTORS)).split(",") for r in ranks
    ]
    plain: list[int] = []
    ours: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(times):
        plain += [found["peak"] for found in run_worker("hpc_fl.bench.memory", ["plain", width], 1)]
        for executor, count in cases:
            found = run_worker("hpc_fl.bench.memory", [executor, width], count)
            ours[executor, count].append(max(found, key=lambda one: int(one["peak"])))
    return [_record(*case, found, median(plain)) for case, found in ours.items()]


def _record(executor: str, ranks: int, found: list[dict[str, Any]], plain: float) -> Record:
    n = found[0]["n"]
    above = (median(one["peak"] for one in found) - plain) / (4 * n)
    chosen = f"{executor} ({found[0]['executor']})" if executor == "auto" else executor
    return Record.at_most(
        f"FedAvg, {chosen}", above, BAR, "buffers", n=n, ranks=ranks, threads=found[0]["threads"]
    )


def config_for(width: int, ranks: int, executor: str) -> dict[str, Any]:
    """10 samples a party, ten parties a round on each rank."""
    samples = 10 * PARTIES * ranks
    return {
        "parties": PARTIES * ranks,
        "rounds": _MANY_ROUNDS,
        "data": {
            "name": "synthetic",
            "samples": samples,
            "shape": [784],
            "classes": 10,
            "test_samples": 100,
        },
        "partition": "shuffle",
        "model": {"name": "mlp", "hidden": [width, width]},
        "cohort": {"name": "uniform", "size": 10 * ranks},
        "training": {"epochs": 1, "batch_size": 10, "executor": executor, "optimizer": {"lr": 0.01}},
        "evaluate": {"parties": False},
        "telemetry": {"progress": False, "tensorboard": False, "report": False},
    }


def measure(executor: str, width: int) -> dict[str, Any]:
    """A run of two rounds with evaluation and the checkpoint at its end; the peak in bytes of this rank."""
    import torch

    from hpc_fl.comm import runtime
    from hpc_fl.config import make_config
    from hpc_fl.session import Session

    transport = runtime.start()
    with runtime.guard(transport), tempfile.TemporaryDirectory() as temporary:
        runtime.set_threads(transport, None)
        config = make_config(config_for(width, transport.size, executor))
        session = Session(config, transport, run_dir=Path(temporary) / "run")
        session.federation.plan = replace(session.federation.plan, rounds=_ROUNDS)
        session.run()
        return {
            "peak": peak(),
            "n": session.federation.model.n,
            "executor": session.executor_choice.name,
            "threads": torch.get_num_threads(),
        }


def plain(width: int) -> dict[str, Any]:
    """Training by hand: the model, the samples that a rank of ours holds, ten steps of SGD."""
    import numpy as np
    import torch
    from torch.nn import functional as F  # noqa: N812

    from hpc_fl import build
    from hpc_fl.config import make_config
    from hpc_fl.models import mlp

    train = build.make_dataset(make_config(config_for(width, 1, "loop"))).train
    x, y = (torch.from_numpy(a) for a in train.rows(np.arange(len(train))))
    module = mlp((784,), 10, hidden=(width, width))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for rows in torch.split(torch.arange(100), 10):
        optimizer.zero_grad()
        F.cross_entropy(module(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {"peak": peak()}


def peak() -> int:
    """The largest memory that this process has occupied so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    what, size = sys.argv[1], int(sys.argv[2])
    print(json.dumps(plain(size) if what == "plain" else measure(what, size)), flush=True)
