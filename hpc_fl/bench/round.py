"""``hpc-fl bench round``: a round of ours beside the same round by a plain torch loop, in one process, in
turn.

Both train the same parties on the same rank for the same number of local steps, on the same threads; both end
with the sum over the ranks and the new parameters. Neither evaluates. Ours includes everything that a run
does in a round: cohort, weights, the check for NaN, the record of the round in metrics.jsonl.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hpc_fl.bench.launching import run_worker
from hpc_fl.bench.record import Record, interleave

_LR_DATA: Final[dict[str, Any]] = {"name": "synthetic", "shape": [784], "classes": 10, "test_samples": 10}
_LR: Final[dict[str, Any]] = {
    "parties": 1000,
    "data": _LR_DATA | {"samples": 60_000},
    "partition": "shuffle",
    "model": "logistic",
    "cohort": {"name": "uniform", "size": 10},
    "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.03}},
}


@dataclass(frozen=True)
class Shape:
    """A shape of run and the largest ratio of ours to the plain loop's that is good enough."""

    config: dict[str, Any]
    bar: float
    ranks: tuple[int, ...]
    rounds: int
    yardstick: str = "plain torch loop"


SHAPES: Final[dict[str, Shape]] = {
    "lr": Shape(_LR, 1 / 8, (1, 2), 60),
    "mlp": Shape(
        {
            "parties": 100,
            "data": {"name": "digits"},
            "partition": {"name": "dirichlet", "alpha": 0.5},
            "model": {"name": "mlp", "hidden": [64]},
            "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.1}},
        },
        1 / 6,
        (1, 2),
        20,
    ),
    "cifar": Shape(
        {
            "parties": 1000,
            "data": {
                "name": "synthetic",
                "samples": 50_000,
                "shape": [3, 32, 32],
                "classes": 10,
                "test_samples": 10,
            },
            "partition": "shuffle",
            "model": {"name": "cnn", "channels": [32, 64], "hidden": 128},
            "cohort": {"name": "uniform", "size": 50},
            "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.1}},
        },
        1.03,
        (1, 2),
        5,
    ),
    "lr-one-party": Shape(
        _LR | {"parties": 4, "cohort": "all", "data": _LR_DATA | {"samples": 240}},
        1.3,
        (4,),
        60,
        "bare mpi4py loop",
    ),
}
"""``lr`` and ``cifar`` are the shapes published by pfl-research and others; ``cifar`` has 1.6 million
parameters.
"""


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``shape=lr,cifar`` and ``ranks=1,2`` restrict what is measured; ``rounds=N`` sets how many
    rounds; ``executor=loop`` (or vmap) takes the place of the automatic choice.
    """
    chosen = options.get("shape", ",".join(SHAPES)).split(",")
    records = []
    for name in chosen:
        ranks = [int(r) for r in options["ranks"].split(",")] if "ranks" in options else SHAPES[name].ranks
        for count in ranks:
            rounds = options.get("rounds", str(SHAPES[name].rounds))
            found = run_worker("hpc_fl.bench.round", [name, rounds, options.get("executor", "auto")], count)
            records += [Record(**record) for record in found]
    return records


def measure(name: str, rounds: int, executor: str) -> list[Record]:
    """Both in turn, on every rank; the records on rank 0, nothing elsewhere."""
    import numpy as np
    import torch

    from hpc_fl.bench.plain import PlainLoop
    from hpc_fl.comm import runtime
    from hpc_fl.config import make_config
    from hpc_fl.session import Session

    shape = SHAPES[name]
    transport = runtime.start()
    with runtime.guard(transport), tempfile.TemporaryDirectory() as folder:
        threads = runtime.set_threads(transport, None)
        quiet = {"progress": False, "tensorboard": False, "report": False}
        # The many rounds make the automatic choice of executor worth measuring, as in a real run.
        training = {**shape.config["training"], "executor": executor}
        config = make_config({**shape.config, "training": training, "rounds": 100_000, "telemetry": quiet})
        session = Session(config, transport, run_dir=Path(folder) / "run")
        federation, store = session.federation, session.parties.store
        parties = {party: store[party] for party in store.party_ids}
        plain = PlainLoop(
            copy.deepcopy(federation.model.module),
            parties,
            epochs=config.training.epochs,
            batch_size=config.training.batch_size or 10,
            lr=config.training.optimizer.lr,
            comm=_bare_communicator(transport.size),
        )

        def ours() -> float:
            transport.barrier()
            start = time.perf_counter()
            cohort, mixed = federation.step()
            federation.report(cohort, mixed, None)
            return time.perf_counter() - start

        def theirs() -> float:
            cohort = session.cohort(federation.round)
            transport.barrier()
            start = time.perf_counter()
            plain.round(cohort)
            return time.perf_counter() - start

        federation.begin()
        seconds = interleave(ours, theirs, rounds, warmup=max(3, rounds // 10))
        slowest = np.array([*seconds, session.ledger.total / federation.round])
        transport.allreduce(slowest, "max")
        record = Record.of(
            f"{name} ({session.executor_choice.name})",
            float(slowest[0]),
            shape.yardstick,
            float(slowest[1]),
            shape.bar,
            n=federation.model.n,
            ranks=transport.size,
            threads=torch.get_num_threads() if threads else 1,
            bytes=int(slowest[2]),
        )
        return [record] if transport.rank == 0 else []


def _bare_communicator(ranks: int) -> Any:
    if ranks == 1:
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD


if __name__ == "__main__":
    for line in measure(sys.argv[1], int(sys.argv[2]), sys.argv[3]):
        print(json.dumps(asdict(line)), flush=True)
