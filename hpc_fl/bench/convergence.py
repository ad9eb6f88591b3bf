"""``hpc-fl bench convergence``: what the digits example reaches when updates travel compressed, beside the
same runs uncompressed, by runs of the real command.

10 parties with different digits (Dirichlet 0.5), a small CNN; each codec with its default error feedback.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hpc_fl.bench.accuracy import Trial
from hpc_fl.bench.record import Record
from hpc_fl.config.load import DIGITS
from hpc_fl.errors import ConfigError

POINTS: Final = 0.5
"""How far below the uncompressed runs, in per cent of the held-out samples, is good enough."""


@dataclass(frozen=True)
class Case:
    """A codec as in the key ``exchange.codec``; ``barred``: whether the bar is for it."""

    title: str
    codec: str
    barred: bool = False


CASES: Final[dict[str, Case]] = {
    "topk10": Case("top-k 10%", "{name: topk, ratio: 0.1}", barred=True),
    "topk1": Case("top-k 1%", "{name: topk, ratio: 0.01}", barred=True),
    "onebit": Case("1-bit", "onebit", barred=True),
    "fp16": Case("fp16", "fp16"),
    "bf16": Case("bf16", "bf16"),
    "randomk10": Case("random-k 10%", "{name: randomk, ratio: 0.1}"),
    "threshold": Case("threshold 0.01", "{name: threshold, eps: 0.01}"),
    "signsgd": Case("sign x 0.02", "{name: signsgd, scale: 0.02}"),
    "qsgd4": Case("QSGD 4 bits", "{name: qsgd, width: 4}"),
    "ternary": Case("ternary 5%", "{name: ternary, ratio: 0.05}"),
    "lowrank4": Case("low rank 4", "{name: lowrank, rank: 4}"),
    "chain": Case("top-k 1%, 4 bits", "{name: chain, sparsifier: {name: topk, ratio: 0.01}, values: qsgd}"),
}


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``codec=topk10,onebit`` (those with a bar by default); ``rounds=100``; ``seeds=0,1,2``;
    ``ranks=2``; ``config=FILE`` in place of the digits example.

    Accuracies are those after the last round, as means over the seeds. Raises :class:`ConfigError` for an
    unknown codec.
    """
    barred = ",".join(name for name, case in CASES.items() if case.barred)
    names = options.get("codec", barred).split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise ConfigError(f"bench convergence: codec: got {unknown[0]!r}, expected one of {', '.join(CASES)}")
    trial = Trial(
        Path(options.get("config", DIGITS)),
        int(options.get("rounds", "100")),
        int(options.get("ranks", "2")),
        tuple(int(seed) for seed in options.get("seeds", "0,1,2").split(",")),
    )
    dense = trial.runs("exchange.codec=identity")
    return [_record(CASES[name], trial, trial.runs(*_settings(CASES[name])), dense) for name in names]


def _settings(case: Case) -> list[str]:
    """Each party's own payload: the hardest way, and the same on any number of ranks."""
    return [f"exchange.codec={case.codec}", "exchange.collective=allgather"]


def _record(case: Case, trial: Trial, runs: list[dict[str, Any]], dense: list[dict[str, Any]]) -> Record:
    """Its ratio is that of the accuracies; the bar is ``POINTS`` below the uncompressed one."""
    # Nothing is sent on one rank.
    share = f", {100 * runs[0]['bytes'] / dense[0]['bytes']:.1f}% bytes" if dense[0]["bytes"] else ""
    title = f"{case.title}, {trial.rounds} rounds{share}"
    return trial.compared(title, runs, "dense", dense, POINTS if case.barred else None)
