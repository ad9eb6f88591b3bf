"""metrics.jsonl and events.jsonl: one JSON object per line, readable while the run goes on."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TextIO

from hpc_fl.errors import HpcFlError
from hpc_fl.telemetry.events import Event, RoundFinished

EVENTS_FILE: Final = "events.jsonl"


class JsonlSink:
    """Writes the metrics of each round to `path`, and every other event to events.jsonl beside it.

    Each is one line, flushed at once.

    append_after_round: None begins both files anew. A number resumes: lines of later rounds and a
    half-written last line are dropped first, and new lines follow. NaN and infinite values are written as
    null. A line of events.jsonl has the keys "event" (the class name), "time" (seconds since 1970) and the
    fields of the event.

    Only one rank makes it. Raises HpcFlError when the files cannot be read or written.
    """

    def __init__(self, path: Path, append_after_round: int | None = None) -> None:
        self._metrics = _open(path, append_after_round)
        self._events = _open(path.with_name(EVENTS_FILE), append_after_round)

    def handle(self, event: Event) -> None:
        """Write one line."""
        if isinstance(event, RoundFinished):
            _write_line(self._metrics, event.metrics)
        else:
            _write_line(self._events, _event_record(event))

    def close(self) -> None:
        """Close both files; closing twice is allowed."""
        self._metrics.close()
        self._events.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file; a half-written last line is left out.

    Raises HpcFlError when another line is not a JSON object, and FileNotFoundError when there is no file.
    """
    return [record for _, record in _lines(path)]


def encode_record(record: Mapping[str, Any]) -> str:
    """Return `record` as one line of JSON without the line break; NaN and infinite values become null."""
    try:
        return _ENCODER.encode(record)
    except ValueError:
        return _ENCODER.encode(_finite(record))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"metrics and events hold JSON types only, not {type(value).__name__}: {value!r}")


# Kept, since json.dumps with options makes one for each line; records are trees, so no search for cycles.
_ENCODER: Final = json.JSONEncoder(allow_nan=False, check_circular=False, default=_plain)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _event_record(event: Event) -> dict[str, Any]:
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {"event": type(event).__name__, "time": time.time(), **values}


def _write_line(file: TextIO, record: Mapping[str, Any]) -> None:
    try:
        file.write(encode_record(record) + "\n")
        file.flush()
    except OSError as error:
        raise _failure(Path(file.name), error) from error


def _open(path: Path, append_after_round: int | None) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if append_after_round is None:
            return path.open("w", encoding="utf-8")
        if path.exists():
            _drop_after(path, append_after_round)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: Path, error: OSError) -> HpcFlError:
    return HpcFlError(f"{path}: {error.strerror or error}; free space there, or choose another run folder")


def _drop_after(path: Path, last_round: int) -> None:
    """Rewrite the file without the lines of later rounds; a crash meanwhile leaves the old file."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        for text, record in _lines(path):
            if record.get("round", 0) <= last_round:
                file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield text and record of each line; an unreadable line is an error unless it is the last."""
    unreadable: int | None = None
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, start=1):
            if unreadable is not None:
                raise HpcFlError(f"{path}, line {unreadable}: not a JSON object; mend or remove that line")
            record = _parse(text)
            if record is None:
                unreadable = number
            else:
                yield text.rstrip("\n"), record


def _parse(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
