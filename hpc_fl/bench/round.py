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
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.bench.launching import run_worker
from hpc_fl.bench.record import Record, interleave

if TYPE_CHECKING:
    from hpc_fl.comm.transport import Transport

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
    """A shape of run and the largest ratio of ours to the plain loop's that is good enough.

    ``block``: so many rounds of each side in a row. The rounds of a run follow each other; the first few
    after the other side's find cold caches.
    """

    config: dict[str, Any]
    bar: float
    ranks: tuple[int, ...]
    rounds: int
    block: int
    yardstick: str = "plain torch loop"


SHAPES: Final[dict[str, Shape]] = {
    "lr": Shape(_LR, 1 / 8, (1, 2), 400, 50),
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
        80,
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
        9,
        1,
    ),
    "lr-one-party": Shape(
        _LR | {"parties": 4, "cohort": "all", "data": _LR_DATA | {"samples": 240}},
        1.3,
        (4,),
        200,
        50,
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
    """Both in turn, on every rank; the record on rank 0, nothing elsewhere."""
    from hpc_fl.comm import runtime

    transport = runtime.start()
    with runtime.guard(transport), tempfile.TemporaryDirectory() as folder:
        runtime.set_threads(transport, None)
        shape = SHAPES[name]
        contest = _Contest(shape, transport, executor, Path(folder) / "run")
        warmup = max(3, rounds // 10)
        seconds = interleave(contest.ours, contest.theirs, rounds, warmup, shape.block)
        record = contest.record(name, *seconds)
        return [record] if transport.rank == 0 else []


class _Contest:
    """A federation and the plain loop over the same parties of this rank."""

    def __init__(self, shape: Shape, transport: Transport, executor: str, folder: Path) -> None:
        from hpc_fl.bench.plain import PlainLoop
        from hpc_fl.config import make_config
        from hpc_fl.session import Session

        quiet = {"progress": False, "tensorboard": False, "report": False}
        training = {**shape.config["training"], "executor": executor}
        # The many rounds make the automatic choice of executor worth measuring, as in a real run.
        config = make_config({**shape.config, "training": training, "rounds": 100_000, "telemetry": quiet})
        self._shape, self._transport = shape, transport
        self._session = Session(config, transport, run_dir=folder)
        self._federation, store = self._session.federation, self._session.parties.store
        self._plain = PlainLoop(
            copy.deepcopy(self._federation.model.module),
            {party: store[party] for party in store.party_ids},
            epochs=config.training.epochs,
            batch_size=config.training.batch_size or 10,
            lr=config.training.optimizer.lr,
            comm=_bare_communicator(transport.size),
        )
        self._plain_rounds = 0
        self._federation.begin()

    def ours(self) -> float:
        """Seconds of one round of the federation, its record included."""
        self._transport.barrier()
        start = time.perf_counter()
        cohort, mixed = self._federation.step()
        self._federation.report(cohort, mixed, None)
        return time.perf_counter() - start

    def theirs(self) -> float:
        """Seconds of one round of the plain loop."""
        cohort = self._session.cohort(self._plain_rounds)
        self._plain_rounds += 1
        self._transport.barrier()
        start = time.perf_counter()
        self._plain.round(cohort)
        return time.perf_counter() - start

    def record(self, name: str, seconds: float, yardstick_seconds: float) -> Record:
        """The record of the slowest rank; every rank must call it."""
        import numpy as np
        import torch

        sent = self._session.ledger.total / self._federation.round
        slowest = np.array([seconds, yardstick_seconds, sent])
        self._transport.allreduce(slowest, "max")
        return Record.of(
            f"{name} ({self._session.executor_choice.name})",
            float(slowest[0]),
            self._shape.yardstick,
            float(slowest[1]),
            self._shape.bar,
            n=self._federation.model.n,
            ranks=self._transport.size,
            threads=torch.get_num_threads(),
            bytes=int(slowest[2]),
        )


def _bare_communicator(ranks: int) -> Any:
    if ranks == 1:
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD


if __name__ == "__main__":
    for line in measure(sys.argv[1], int(sys.argv[2]), sys.argv[3]):
        print(json.dumps(asdict(line)), flush=True)
