"""Time line of the spans of each rank, for chrome://tracing and https://ui.perfetto.dev."""

import json
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc_fl.errors import HpcFlError


class Trace:
    """Spans of one rank, kept in memory (18 bytes each) until `write`.

    Times come from `time.perf_counter`; the wall-clock origin taken at construction puts ranks of one host on
    one time axis. Between hosts the axis is as good as the hosts' clocks.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._origin = time.time() - time.perf_counter()
        self._ids: dict[str, int] = {}
        self._names = array("H")
        self._starts = array("d")
        self._durations = array("d")

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, name: str, start_seconds: float, duration_seconds: float) -> None:
        """Add a span; `start_seconds` is a reading of `time.perf_counter`."""
        self._names.append(self._ids.setdefault(name, len(self._ids)))
        self._starts.append(start_seconds)
        self._durations.append(duration_seconds)

    def write(self, path: Path) -> None:
        """Write the spans of this rank as trace-event JSON (pid is the rank, times in microseconds since
        1970).
        """
        names = list(self._ids)
        events = [
            {
                "name": names[name],
                "ph": "X",
                "pid": self.rank,
                "tid": 0,
                "ts": (self._origin + start) * 1e6,
                "dur": duration * 1e6,
            }
            for name, start, duration in zip(self._names, self._starts, self._durations, strict=True)
        ]
        _write_events(path, [*_labels(self.rank), *events])

    @staticmethod
    def merge(paths: Sequence[Path], out: Path) -> None:
        """Write the traces of all ranks as one file whose time axis begins at the earliest span.

        Only one rank calls it, after all have written. Raises HpcFlError when a file is missing or is no
        trace.
        """
        events = [event for path in paths for event in _read_events(path)]
        origin = min((event["ts"] for event in events if "ts" in event), default=0.0)
        _write_events(
            out, [event | {"ts": event["ts"] - origin} if "ts" in event else event for event in events]
        )


def _labels(rank: int) -> list[dict[str, Any]]:
    return [
        {"name": "process_name", "ph": "M", "pid": rank, "args": {"name": f"rank {rank}"}},
        {"name": "process_sort_index", "ph": "M", "pid": rank, "args": {"sort_index": rank}},
    ]


def _write_events(path: Path, events: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": events}), encoding="utf-8")


def _read_events(path: Path) -> list[dict[str, Any]]:
    try:
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HpcFlError(f"{path} is not a trace ({error}); merge the files that Trace.write made") from error
    return events
