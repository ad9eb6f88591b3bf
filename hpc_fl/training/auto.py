"""Choosing between the executors by measuring both, once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.comm.control import broadcast_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.data.parties import PartyStore
from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training.batched import MAX_BYTES, VmapExecutor
from hpc_fl.training.executor import Executor, LocalWork, step_count
from hpc_fl.training.loop import LoopExecutor
from hpc_fl.training.parties import LocalBuffers

WORTH_MEASURING: Final = 60.0
"""Seconds of projected local training below which ``loop`` is kept unmeasured against ``vmap``, whose
preparation costs about 3 s.
"""

_TRIAL_STEPS: Final = 10
"""At most so many local steps a party in a trial; fewer where a real round has fewer."""

_TRIAL_PARTIES: Final = 3

_TRIALS: Final = 5
_TRIAL_SECONDS: Final = 0.2
"""A trial is repeated so often, or until it has taken so long."""
_MARGIN: Final = 0.7
"""vmap must promise to save this much: trials are short, machines noisy; where it pays, it pays twofold."""

_RULE: Final = 4
"""Raised when choices are made in another way: those kept by an earlier version are then not used."""


@dataclass(frozen=True)
class Choice:
    """Which executor, and why in one line for the run's log."""

    name: str
    reason: str


def choose(
    model: FlatModel, store: PartyStore, work: LocalWork, transport: Transport, *, cohort: int, rounds: int
) -> Choice:
    """The faster executor for this run; every rank must call it, and all get the same answer.

    ``cohort``: parties that train on one rank in one round; ``rounds``: of the whole run. The answer is kept
    in a file per user and machine, so that the same run started again computes the same bits: delete
    :func:`cache_path` to measure anew.
    """
    path, name = cache_path(), _signature(model, store, work, cohort, rounds, transport.size)
    cached = _read(path).get(name) if transport.rank == 0 else None
    answer = broadcast_bytes(transport, json.dumps(cached).encode() if transport.rank == 0 else None)
    known = json.loads(answer)
    if known is not None:
        return Choice(known["name"], f"{known['reason']} (measured earlier, kept in {path})")
    choice = _measure(model, store, work, transport, cohort, rounds)
    if transport.rank == 0:
        _write(path, name, choice)
    return choice


def make(
    choice: str, model: FlatModel, store: PartyStore, work: LocalWork, buffers: LocalBuffers
) -> Executor:
    """The executor of that name ("loop" or "vmap")."""
    if choice == VmapExecutor.name:
        return VmapExecutor(model, store, work)
    return LoopExecutor(model, store, work, buffers)


def _measure(
    model: FlatModel, store: PartyStore, work: LocalWork, transport: Transport, cohort: int, rounds: int
) -> Choice:
    received = model.values.clone()
    parties = store.party_ids[: max(1, cohort)]
    per_party = float(step_count(work).total(store.counts).mean()) if parties else 0.0
    trial = replace(work, steps=replace(work.steps, steps=max(1, min(_TRIAL_STEPS, round(per_party)))))
    steps = rounds * cohort * per_party
    loop = LoopExecutor(model, store, trial, LocalBuffers(model))
    one_by_one = _agree(transport, steps * _try(loop, parties[:_TRIAL_PARTIES], received).per_step)
    if one_by_one < WORTH_MEASURING:
        model.load(received)
        return Choice(
            "loop", f"local training takes about {one_by_one:.1f} s in all: little to gain from vmap"
        )
    if model.n * 4 * 2 > MAX_BYTES:
        model.load(received)
        return Choice("loop", "two models of this size do not fit a group: vmap would train one at a time")
    batched = _try_together(model, store, trial, parties, received)
    together = _agree(transport, batched.preparation + steps * batched.per_step)
    model.load(received)
    if not math.isfinite(together):
        # Without the advice behind the semicolon: it is what happens.
        problem = batched.problem.partition(";")[0]
        return Choice("loop", problem or "the model cannot be batched on another rank")
    name = "vmap" if together < _MARGIN * one_by_one else "loop"
    return Choice(name, f"local training would take {one_by_one:.3g} s by loop, {together:.3g} s by vmap")


@dataclass(frozen=True)
class _Trial:
    """Seconds that only the first use takes, and seconds per party and step after it."""

    preparation: float
    per_step: float
    problem: str = ""


def _try_together(
    model: FlatModel, store: PartyStore, work: LocalWork, parties: Sequence[int], received: Tensor
) -> _Trial:
    """The trial of vmap; infinite, with the reason, where the model cannot be batched."""
    try:
        return _try(VmapExecutor(model, store, work), parties, received)
    except ModelError as error:
        return _Trial(math.inf, 0.0, str(error))


def _try(executor: Executor, parties: Sequence[int], received: Tensor) -> _Trial:
    """The first run warms up, and traces; then the quickest of a few counts, as ranks share their cores."""
    if not parties:
        return _Trial(0.0, 0.0)
    first, steps = _run(executor, parties, received)
    runs = [_run(executor, parties, received)[0]]
    while len(runs) < _TRIALS and sum(runs) < _TRIAL_SECONDS:
        runs.append(_run(executor, parties, received)[0])
    return _Trial(max(0.0, first - min(runs)), min(runs) / max(1, steps))


def _run(executor: Executor, parties: Sequence[int], received: Tensor) -> tuple[float, int]:
    """Seconds and local steps of one run."""
    start = time.perf_counter()
    steps = sum(int(trained.steps.sum()) for trained in executor.train(parties, received, 0))
    return time.perf_counter() - start, steps


def _agree(transport: Transport, seconds: float) -> float:
    slowest = np.array([seconds])
    transport.allreduce(slowest, "max")
    return float(slowest[0])


def cache_path() -> Path:
    """Where choices are kept: ``$XDG_CACHE_HOME/hpc_fl/executor.json`` (default ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpc_fl" / "executor.json"


def _signature(
    model: FlatModel, store: PartyStore, work: LocalWork, cohort: int, rounds: int, ranks: int
) -> str:
    described = {
        "rule": (_RULE, WORTH_MEASURING),
        "shapes": [s.shape for s in model.segments],
        "module": repr(model.module),
        "steps": asdict(work.steps),
        "optimizer": repr(work.optimizer),
        "loss": type(work.loss).__name__,
        "clip": work.clip_norm,
        "samples": store.counts.tolist(),
        "run": (cohort, rounds, ranks, torch.get_num_threads(), str(model.device)),
        "machine": (platform.node(), platform.machine(), torch.__version__),
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _write(path: Path, name: str, choice: Choice) -> None:
    """Adds the choice; a home directory that cannot be written costs a measurement at the next start, nothing
    else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({**_read(path), name: asdict(choice)}, file)
        Path(file.name).replace(path)
    except OSError:
        return
