"""``hpc-fl bench accuracy``: what the shipped configurations reach on held-out samples, by runs of the real
command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, Final

from hpc_fl.bench.record import Record
from hpc_fl.errors import ConfigError, HpcFlError

CONFIGS: Final = Path(__file__).parents[2] / "configs"
"""The folder of a source checkout; an installed package does not have it."""


@dataclass(frozen=True)
class Bar:
    """The accuracy in per cent that a configuration is to reach within ``rounds`` rounds."""

    config: str
    rounds: int
    percent: float


BARS: Final = {"digits": Bar("digits.yaml", 30, 97.0), "breast_cancer": Bar("breast_cancer.yaml", 30, 95.0)}


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``case=digits,breast_cancer``; ``seeds=0,1,2``; ``rounds=N``; ``ranks=4``; ``configs=FOLDER``.

    The accuracy is that after the last round, not the best on the way, as a mean over the seeds. Raises
    :class:`ConfigError` where the configurations are not found, :class:`HpcFlError` when a run fails.
    """
    folder = Path(options.get("configs", CONFIGS))
    seeds = [int(seed) for seed in options.get("seeds", "0,1,2").split(",")]
    ranks = int(options.get("ranks", "4"))
    records = []
    for name in options.get("case", ",".join(BARS)).split(","):
        if name not in BARS:
            raise ConfigError(f"bench accuracy: case: got {name!r}, expected one of {', '.join(BARS)}")
        bar = BARS[name]
        rounds = int(options.get("rounds", bar.rounds))
        runs = [train(folder / bar.config, seed, rounds, ranks) for seed in seeds]
        reached = [100 * run["accuracy"] for run in runs]
        records.append(
            Record.at_least(
                f"{name}, {rounds} rounds",
                mean(reached),
                bar.percent,
                "%",
                n=runs[0]["parameters"],
                ranks=ranks,
                threads=runs[0]["threads"],
                bytes=runs[0]["bytes"],
            )
        )
    return records


@dataclass(frozen=True)
class Trial:
    """What all runs of a comparison have in common."""

    config: Path
    rounds: int
    ranks: int
    seeds: tuple[int, ...]

    def runs(self, *settings: str) -> list[dict[str, Any]]:
        """A run for each seed."""
        return [self.run(seed, *settings) for seed in self.seeds]

    def run(self, seed: int, *settings: str) -> dict[str, Any]:
        """See :func:`train`."""
        return train(self.config, seed, self.rounds, self.ranks, settings)

    def compared(
        self,
        title: str,
        runs: Sequence[Mapping[str, Any]],
        yardstick: str,
        others: Sequence[Mapping[str, Any]],
        behind: float | None,
    ) -> Record:
        """Mean accuracies in per cent, those of ``runs`` beside those of the ``yardstick``. ``behind``: so
        many points below are good enough (below 0: so many above are wanted); None: no bar.
        """
        reached, wanted = (100 * mean(run["accuracy"] for run in found) for found in (runs, others))
        record = Record.of(
            title,
            reached,
            yardstick,
            wanted,
            None if behind is None else (wanted - behind) / wanted,
            n=runs[0]["parameters"],
            ranks=self.ranks,
            threads=runs[0]["threads"],
            bytes=runs[0]["bytes"],
            unit="%",
            better="higher",
        )
        return record if behind is None else replace(record, holds=reached >= wanted - behind)


def train(config: Path, seed: int, rounds: int, ranks: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """One run of ``hpc-fl train``: the accuracy at its end (0 to 1), parameters, threads of a rank, and bytes
    of the last round's exchange that the rank sent which sent most.

    Raises :class:`ConfigError` where the configuration is not found, :class:`HpcFlError` when the run fails.
    """
    if not config.exists():
        raise ConfigError(f"{config}: not found; bench accuracy configs=FOLDER says where the examples are")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        quiet = [f"telemetry.{key}=false" for key in ("progress", "tensorboard", "report")]
        fixed = [f"seed={seed}", f"rounds={rounds}", "evaluate.parties=false", *quiet]
        command = [sys.executable, "-m", "hpc_fl", "train", str(config), *fixed, *settings]
        command += ["-n", str(ranks), "--run-dir", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HpcFlError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
        first, last = _lines(folder / "events.jsonl")[0], _lines(folder / "metrics.jsonl")[-1]
    exchanged = [sent for kind, sent in last["bytes_sent"].items() if kind != "control"]
    return {
        "accuracy": last["accuracy"],
        "parameters": first["parameters"],
        "threads": int(first["facts"]["threads"]),
        "bytes": max(map(sum, zip(*exchanged, strict=True))),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
