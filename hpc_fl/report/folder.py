"""A run folder, read for the report."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from hpc_fl.errors import HpcFlError
from hpc_fl.report.topology import TOPOLOGY_FILE, Topology, read_topology
from hpc_fl.telemetry.jsonl import EVENTS_FILE, read_jsonl
from hpc_fl.telemetry.totals import Totals

METRICS_FILE: Final = "metrics.jsonl"
CONFIG_FILE: Final = "config.yaml"
VERSIONS_FILE: Final = "versions.json"


@dataclass
class RunFolder:
    """The records of a run, in the order of rounds; at least one.

    `config` and `versions` are the texts of config.yaml and versions.json, `topology` what topology.json
    says; None where there is no such file.
    """

    path: Path
    records: list[dict[str, Any]]
    events: list[dict[str, Any]] = field(default_factory=list)
    config: str | None = None
    versions: str | None = None
    topology: Topology | None = None

    @cached_property
    def totals(self) -> Totals:
        """Sums over all rounds."""
        totals = Totals()
        for record in self.records:
            totals.add(record)
        return totals

    @cached_property
    def rounds(self) -> list[float]:
        """The round of each record."""
        return [float(record["round"]) for record in self.records]

    @cached_property
    def sent(self) -> list[float]:
        """Bytes sent by all ranks from the beginning to the end of each round."""
        each = (sum(map(sum, record.get("bytes_sent", {}).values())) for record in self.records)
        return list(accumulate(map(float, each)))

    @cached_property
    def elapsed(self) -> list[float]:
        """Wall seconds from the beginning of the run to the end of each round."""
        return [float(record["elapsed"]) for record in self.records]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return the places (in `records`) and the values where `key` holds a finite number."""
        found = [(place, record.get(key)) for place, record in enumerate(self.records)]
        pairs = [
            (place, float(value)) for place, value in found if value is not None and math.isfinite(value)
        ]
        return [place for place, _ in pairs], [value for _, value in pairs]

    def events_of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of one class, by its name."""
        return [event for event in self.events if event.get("event") == kind]

    def last_event(self, kind: str) -> dict[str, Any]:
        """Return the last event of one class; an empty dict when there was none."""
        found = self.events_of(kind)
        return found[-1] if found else {}

    @property
    def state(self) -> str:
        """Why the run ended; else, as a run that is killed cannot say so, that no end is known."""
        sessions = [event for event in self.events if event.get("event") in ("RunStarted", "RunFinished")]
        if not sessions or sessions[-1]["event"] == "RunStarted":
            return "in progress, or killed"
        return str(sessions[-1]["reason"])


def read_run(run_dir: Path) -> RunFolder:
    """Read a run folder; files other than metrics.jsonl may be missing.

    Raises HpcFlError when metrics.jsonl is missing, empty or damaged, or topology.json is damaged.
    """
    metrics = run_dir / METRICS_FILE
    if not metrics.is_file():
        raise HpcFlError(f"{metrics} does not exist; give the folder of a run (`hpc-fl train` names it)")
    records = read_jsonl(metrics)
    if not records:
        raise HpcFlError(f"{metrics} holds no finished round yet; report again after the first round")
    for key in ("round", "elapsed"):
        if any(key not in record for record in records):
            raise HpcFlError(
                f"{metrics} has a line without {key!r}; it was not written by this version of hpc_fl"
            )
    events = run_dir / EVENTS_FILE
    return RunFolder(
        path=run_dir,
        records=records,
        events=read_jsonl(events) if events.is_file() else [],
        config=_text(run_dir / CONFIG_FILE),
        versions=_text(run_dir / VERSIONS_FILE),
        topology=read_topology(run_dir / TOPOLOGY_FILE),
    )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
