"""What gossip reaches on the digits example, beside FedAvg and beside itself, by runs of the real command.

8 parties, the configuration of the example (:mod:`hpc_fl.config.load`), each case on the same divisions of
the data, seed by seed. In all cases alike the learning rate falls to 0 along a cosine, as is usual where
models are to agree in the end: at a constant rate the parties' noise never rests, and CHOCO's public copies
run after it. What is compared is the consensus model after the last round: the mean of all parties' models.

FedAvg is the one that users have by default: a mean weighted by samples; gossip counts all parties alike, so
the same with equal weights is told, too. Quasi-global momentum takes the place of local momentum, and
gradient tracking follows gradients: both run without local momentum, at the same learning rate. The bar is
against D-PSGD as its paper has it, without momentum either; what they gain beside D-PSGD with the example's
local momentum is told, too. Quasi-global momentum moves once a round, so a
decay of 0.9 would take all of 100 rounds to be felt: it is 0.5 here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import mean
from typing import Any, Final

from hpc_fl.bench.accuracy import Trial
from hpc_fl.bench.record import Record

PARTIES: Final = 8
CORRECTED: Final = ("tracking", "quasi-global")
ABOVE: Final = {"skewed-plain": -1.0, "skewed": None}
"""How far behind these the better of :data:`CORRECTED` may be: a point ahead of the first."""

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
"""By case, its runs, one for each seed."""


@dataclass(frozen=True)
class Case:
    """``settings`` of the command. ``beside``: the case that it is compared with; ``behind``: how many points
    below that one are good enough, None where no bar is set.
    """

    title: str
    settings: tuple[str, ...]
    beside: str = ""
    behind: float | None = None


def _ring(alpha: float, *settings: str) -> tuple[str, ...]:
    return (f"partition.alpha={alpha}", "exchange.topology=ring", *settings)


_STILL: Final = "training.optimizer.momentum=0.0"

CASES: Final[Mapping[str, Case]] = {
    "fedavg": Case("Dirichlet 0.5, FedAvg", ("partition.alpha=0.5",)),
    "fedavg-equal": Case(
        "Dirichlet 0.5, FedAvg, equal weights",
        ("partition.alpha=0.5", "strategy.weighting=equal"),
        "fedavg",
    ),
    "ring": Case("Dirichlet 0.5, ring", _ring(0.5), "fedavg", 3.0),
    "exponential": Case(
        "Dirichlet 0.5, exponential",
        ("partition.alpha=0.5", "exchange.topology=exponential"),
        "fedavg",
        1.0,
    ),
    "iid-fedavg": Case("iid, FedAvg", ("partition=shuffle",)),
    "iid-exponential": Case(
        "iid, exponential", ("partition=shuffle", "exchange.topology=exponential"), "iid-fedavg", 0.5
    ),
    "skewed": Case("Dirichlet 0.1, ring", _ring(0.1)),
    "skewed-plain": Case("Dirichlet 0.1, ring, no momentum", _ring(0.1, _STILL), "skewed"),
    "tracking": Case(
        "Dirichlet 0.1, gradient tracking", _ring(0.1, _STILL, "strategy=gradient_tracking"), "skewed"
    ),
    "quasi-global": Case(
        "Dirichlet 0.1, quasi-global momentum",
        _ring(0.1, _STILL, "strategy={name: quasi_global, decay: 0.5}"),
        "skewed",
    ),
    "choco-topk5": Case(
        "ring, CHOCO top-k 5%", _ring(0.5, "exchange.codec={name: topk, ratio: 0.05}"), "ring", 1.5
    ),
    "choco-topk1": Case(
        "ring, CHOCO top-k 1%", _ring(0.5, "exchange.codec={name: topk, ratio: 0.01}"), "ring"
    ),
    "choco-sign": Case("ring, CHOCO sign", _ring(0.5, "exchange.codec=onebit"), "ring"),
}


@dataclass(frozen=True)
class Asked:
    """``cases`` to tell of, what all runs have in common, and how many ``jobs`` go on at once."""

    cases: Sequence[str]
    trial: Trial
    jobs: int


def records_of(asked: Asked) -> list[Record]:
    """Runs the cases and those that they are compared with; a record for each comparison."""
    needed = [other for name in asked.cases for other in (CASES[name].beside, name) if other]
    runs = _run(asked, list(dict.fromkeys(needed)))
    found = [
        asked.trial.compared(
            _title(asked, name), runs[name], CASES[case.beside].title, runs[case.beside], case.behind
        )
        for name, case in ((name, CASES[name]) for name in asked.cases)
        if case.beside
    ]
    if {*ABOVE, *CORRECTED} <= runs.keys():
        best = max(CORRECTED, key=lambda name: _accuracy(runs[name]))
        for plain, behind in ABOVE.items():
            title = f"{_title(asked, best)}, the better one, beside {CASES[plain].title.rpartition(', ')[2]}"
            found.append(asked.trial.compared(title, runs[best], CASES[plain].title, runs[plain], behind))
    return found


def _title(asked: Asked, name: str) -> str:
    return f"{CASES[name].title}, {asked.trial.rounds} rounds"


def _accuracy(runs: Sequence[Mapping[str, Any]]) -> float:
    return float(mean(run["accuracy"] for run in runs))


def _run(asked: Asked, names: Sequence[str]) -> Runs:
    trial = asked.trial
    fixed = (
        f"parties={PARTIES}",
        f"training.schedule={{name: CosineAnnealingLR, T_max: {trial.rounds}}}",
        f"evaluate.every={trial.rounds}",
        "checkpoint.every=null",
        f"comm.threads={max(1, len(os.sched_getaffinity(0)) // (asked.jobs * trial.ranks))}",
    )
    with ThreadPoolExecutor(asked.jobs) as pool:
        under_way = {
            name: [pool.submit(trial.run, seed, *fixed, *CASES[name].settings) for seed in trial.seeds]
            for name in names
        }
        return {name: [run.result() for run in some] for name, some in under_way.items()}
