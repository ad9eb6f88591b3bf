"""The folder that a run leaves behind.

::

    runs/digits-20261120-093000/
        config.yaml  versions.json  metrics.jsonl  events.jsonl  report.html  curves.png  trace.json
        topology.json  checkpoints/round-00000010/...   tensorboard/
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hpc_fl.config import Config, dump_config, load_config
from hpc_fl.errors import ConfigError, HpcFlError
from hpc_fl.versions import versions

_FREE: Final = frozenset(
    ("rounds", "evaluate", "checkpoint", "telemetry", "comm", "device", "trace", "runs", "name")
)
"""Keys that a resumed run may change; the others decide what is computed."""

GIVEN: Final = "given"
"""Where versions.json names the objects that a run was given from Python."""

_NAME: Final = re.compile(r"-\d{8}-\d{6}(-\d+)?$")
"""What :func:`new_folder` puts behind the name of a run."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON record a round."""
        return self.path / "metrics.jsonl"

    @property
    def topology(self) -> Path:
        """The graph of a run with gossip, for the report."""
        return self.path / "topology.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tensorboard"

    def trace(self, rank: int | None = None) -> Path:
        """The trace of one rank, or of all."""
        return self.path / ("trace.json" if rank is None else f"trace-{rank:04d}.json")

    @property
    def versions(self) -> Path:
        """What the run depends on besides its configuration."""
        return self.path / "versions.json"

    def given(self) -> tuple[str, ...]:
        """Which objects ("model", "data") the run was given from Python, in place of its configuration's."""
        try:
            return tuple(json.loads(self.versions.read_text()).get(GIVEN, ()))
        except (OSError, ValueError):
            return ()

    def create(self, config: Config, facts: dict[str, Any]) -> None:
        """Makes the folder and writes the configuration and the versions; one rank calls it. Raises
        :class:`HpcFlError`.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.config.write_text(dump_config(config))
            self._note_versions(versions() | facts)
        except OSError as error:
            raise HpcFlError(
                f"{self.path}: cannot be written ({error.strerror}); choose another folder with --run-dir"
            ) from error

    def _note_versions(self, now: dict[str, Any]) -> None:
        """The versions of the first session, and under "resumed" those of later ones."""
        if self.versions.exists():
            first = json.loads(self.versions.read_text())
            now = first | {"resumed": [*first.get("resumed", []), now]}
        self.versions.write_text(json.dumps(now, indent=2) + "\n")


def new_folder(config: Config) -> RunFolder:
    """A folder name that is not taken: runs/NAME-DATE-TIME, with a number behind it where two runs start in
    one second.
    """
    stem = config.runs / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidate, number = stem, 2
    while candidate.exists():
        candidate, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return RunFolder(candidate)


def newest_folder(runs: Path, name: str | None = None) -> RunFolder | None:
    """The most recent run under ``runs`` (of that name, if one is given), or None."""
    found = [
        config.parent
        for config in runs.glob("*/config.yaml")
        if name is None or _NAME.sub("", config.parent.name) == name
    ]
    return RunFolder(max(found, key=lambda p: (p.stat().st_mtime, p.name))) if found else None


def continued(folder: RunFolder, config: Config, given: Sequence[str] = ()) -> Config:
    """``config`` for going on with the run in ``folder``: an automatic choice stays what it was, to the bit.

    ``given``: see :meth:`RunFolder.given`, now. Raises :class:`ConfigError` where ``config`` or the objects
    would compute something else than that run.
    """
    if (had := folder.given()) != tuple(given):
        raise ConfigError(
            f"--resume: the run in {folder.path} was given {_named(had)} from Python, now {_named(given)}; "
            "go on with it as it began: hpc_fl.train(..., run_dir=..., resume=True) with the same objects"
        )
    kept = load_config(folder.config)
    if config.training.executor == "auto":
        training = config.training.model_copy(update={"executor": kept.training.executor})
        config = config.model_copy(update={"training": training})
    if config.exchange.codec.name == "auto":
        config = config.model_copy(update={"exchange": kept.exchange})
    before, now = kept.model_dump(mode="json"), config.model_dump(mode="json")
    for key in now:
        if key not in _FREE and before[key] != now[key]:
            raise ConfigError(
                f"{key}: got {now[key]!r}, but the run in {folder.path} has {before[key]!r}; "
                "start a new run to change it"
            )
    return config


def _named(given: Sequence[str]) -> str:
    return " and ".join(f"its own {name}" for name in given) or "neither model nor data"
