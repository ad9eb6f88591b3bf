"""Scalars for TensorBoard, written without torch or TensorFlow."""

import importlib.util
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hpc_fl.errors import HpcFlError
from hpc_fl.telemetry.events import Event, RoundFinished, RunStarted

# Seconds until a scalar is on disk; TensorBoard itself looks for news every 30 s.
_FLUSH_SECONDS: Final = 10


class TensorBoardSink:
    """Writes the numbers of each round as scalars into `directory`; the step is the round.

    A thread imports tensorboard (0.4 s) and writes; `handle` only queues. A resumed run hides the points of
    an earlier session from its first round on. Only one rank makes it. Raises HpcFlError at once when
    tensorboard is not installed, and at the next event or at `close` when writing failed.
    """

    def __init__(self, directory: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise HpcFlError(
                'TensorBoard output needs the package tensorboard: pip install "hpc_fl[tensorboard]"'
            )
        self._directory = directory
        self._queue: queue.SimpleQueue[tuple[float, Event] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def handle(self, event: Event) -> None:
        """Queue an event for the writing thread."""
        self._raise_failure()
        if self._thread is None:
            # A daemon: a job that dies without closing must not wait for it.
            self._thread = threading.Thread(target=self._work, name="tensorboard", daemon=True)
            self._thread.start()
        if isinstance(event, (RunStarted, RoundFinished)):
            self._queue.put((time.time(), event))

    def close(self) -> None:
        """Wait until everything is on disk; closing twice is allowed."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise HpcFlError(f"TensorBoard files in {self._directory}: {self._failure}") from self._failure

    def _work(self) -> None:
        try:
            _write_events(self._directory, iter(self._queue.get, None))
        except Exception as error:
            self._failure = error


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a metrics.jsonl record is drawn: numbers by tag, nested keys joined by "/".

    Bytes are summed over the ranks; of the lists of parties the length is kept; round and time are no
    scalars.
    """
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if key in ("cohort", "left_out"):
            found[f"{key}_size"] = len(value)
        elif key == "bytes_sent":
            found |= {f"bytes_sent/{kind}": float(sum(sent)) for kind, sent in value.items()}
        elif isinstance(value, Mapping):
            found |= {f"{key}/{name}": number for name, number in scalars(value).items()}
        elif isinstance(value, (int, float)) and key not in ("round", "time"):
            found[key] = float(value)
    return found


def _write_events(directory: Path, events: Iterator[tuple[float, Event]]) -> None:
    from tensorboard.compat.proto.event_pb2 import Event as Record
    from tensorboard.compat.proto.event_pb2 import SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(directory), flush_secs=_FLUSH_SECONDS)
    try:
        for wall_time, event in events:
            if isinstance(event, RunStarted):
                start = SessionLog(status=SessionLog.START)
                writer.add_event(Record(wall_time=wall_time, step=event.first_round, session_log=start))
            elif isinstance(event, RoundFinished):
                values = [Summary.Value(tag=tag, simple_value=x) for tag, x in scalars(event.metrics).items()]
                writer.add_event(Record(wall_time=wall_time, step=event.round, summary=Summary(value=values)))
    finally:
        writer.close()
