"""The parts of the page that are text: what was left out, checkpoints, notices, configuration, versions."""

import json
import shlex
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from hpc_fl.report.folder import CONFIG_FILE, VERSIONS_FILE, RunFolder
from hpc_fl.telemetry.jsonl import EVENTS_FILE
from hpc_fl.telemetry.units import format_seconds

_MOST_ROWS: Final = 100
_MOST_IDS: Final = 20


def heading(text: str) -> str:
    """Return a heading of the second level."""
    return f"<h2>{escape(text)}</h2>"


def left_out(run: RunFolder) -> str:
    """Parties whose updates were not used, and why."""
    rows = [
        (f"{event['round']:,}", _ids(event["party_ids"]), event["reason"])
        for event in run.events_of("PartyLeftOut")
    ]
    return _section("Left out", ("round", "parties", "reason"), rows, "No party was left out of a round.")


def checkpoints(run: RunFolder) -> str:
    """Checkpoints written, whether or not they were removed since."""
    rows = [
        (
            f"{event['round']:,}",
            format_seconds(event["seconds"]),
            "best so far" if event["best"] else "",
            event["path"],
        )
        for event in run.events_of("CheckpointWritten")
    ]
    columns = ("round", "written in", "", "folder")
    return _section("Checkpoints", columns, rows, "No checkpoint was written.")


def notices(run: RunFolder) -> str:
    """Remarks of the run; empty when there were none."""
    items = [escape(event["text"]) for event in run.events_of("Notice")]
    return f"{heading('Notices')}<ul><li>{'</li><li>'.join(items)}</li></ul>" if items else ""


def configuration(run: RunFolder) -> str:
    """config.yaml as it was resolved."""
    return heading("Configuration") + _file(CONFIG_FILE, run.config)


def versions(run: RunFolder) -> str:
    """versions.json as a table, or as found when it is no object."""
    try:
        found = json.loads(run.versions or "null")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return heading("Versions") + _file(VERSIONS_FILE, run.versions)
    rows = [row for key, value in found.items() for row in _facts(key, value)]
    return heading("Versions") + _table(("", ""), rows)


def _facts(key: str, value: object) -> list[tuple[str, str]]:
    """Rows for a fact: one for each package, the command as it can be typed."""
    if isinstance(value, dict):
        return [row for inner, fact in value.items() for row in _facts(inner, fact)]
    if isinstance(value, list):
        return [(key, shlex.join(map(str, value)))]
    return [(key, "none" if value is None else str(value))]


def _file(name: str, text: str | None) -> str:
    if text is None:
        return f'<p class="note">The run folder has no {escape(name)}.</p>'
    return f"<pre>{escape(text)}</pre>"


def _section(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> str:
    if not rows:
        return f'{heading(title)}<p class="note">{escape(empty)}</p>'
    more = len(rows) - _MOST_ROWS
    note = (
        f'<p class="note">The last {_MOST_ROWS} of {len(rows):,}; all are in {EVENTS_FILE}.</p>'
        if more > 0
        else ""
    )
    return heading(title) + note + _table(columns, rows[-_MOST_ROWS:])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns) if any(columns) else ""
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _ids(party_ids: Sequence[Any]) -> str:
    more = len(party_ids) - _MOST_IDS
    return ", ".join(map(str, party_ids[:_MOST_IDS])) + (f" and {more} more" if more > 0 else "")
