"""The table at the end of a run."""

from typing import TYPE_CHECKING

from hpc_fl.telemetry.events import RunFinished, RunStarted
from hpc_fl.telemetry.totals import Reading, Totals
from hpc_fl.telemetry.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.table import Table


def outcome_rows(finished: RunFinished, started: RunStarted | None, totals: Totals) -> list[tuple[str, str]]:
    """Return the rows (name, value) of the final table; what a run does not have has no row.

    Texts and numbers of `finished.summary` follow under their own names.
    """
    rows = [
        ("accuracy", _with_best(totals.accuracy, totals.best_accuracy)),
        ("loss", _with_best(totals.loss, totals.best_loss)),
        ("train loss", _with_best(totals.train_loss, None)),
        ("accuracy of own models", _with_best(totals.model_accuracy, None)),
        ("consensus distance", _with_best(totals.consensus_distance, None, ".3g")),
        *_traffic_rows(totals, "in all" if _begun(started) == 1 else "since the run was resumed"),
        *_time_rows(totals),
        ("left out", f"{totals.left_out:,} updates" if totals.left_out else "none"),
        *((key.replace("_", " "), _text(value)) for key, value in finished.summary.items()),
        ("run folder", str(started.run_dir) if started is not None and started.run_dir is not None else ""),
    ]
    return [(name, value) for name, value in rows if value]


def outcome_table(finished: RunFinished, started: RunStarted | None, totals: Totals) -> "Table":
    """Return the rows of `outcome_rows` as a table for rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    name = "" if started is None else f"{started.name}: "
    title = f"{name}{finished.reason}, {_rounds(finished, started)} in {format_seconds(finished.seconds)}"
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in outcome_rows(finished, started, totals):
        table.add_row(key, Text(value))
    return table


def _begun(started: RunStarted | None) -> int:
    """The first round of what the totals are of: later than 1 where the run was resumed."""
    return 1 if started is None else started.first_round


def _rounds(finished: RunFinished, started: RunStarted | None) -> str:
    first, last = _begun(started), finished.rounds_done
    if first > last:
        return "no further round"
    if first > 1:
        return f"rounds {first:,} to {last:,}"
    return f"{last:,} round{'' if last == 1 else 's'}"


def _traffic_rows(totals: Totals, span: str) -> list[tuple[str, str]]:
    by_rank = totals.bytes_by_rank
    if not by_rank:
        return []
    kinds = {kind: sum(sent) for kind, sent in totals.bytes_sent.items()}
    largest_first = sorted(kinds.items(), key=lambda item: -item[1])
    least, mean, most = min(by_rank), sum(by_rank) / len(by_rank), max(by_rank)
    return [
        ("bytes sent", f"{format_bytes(totals.bytes_total)} {span}"),
        ("  by rank", f"{format_bytes(mean)} mean, {format_bytes(least)} to {format_bytes(most)}"),
        ("  by kind", ", ".join(f"{kind} {format_bytes(sent)}" for kind, sent in largest_first)),
    ]


def _time_rows(totals: Totals) -> list[tuple[str, str]]:
    if not totals.rounds:
        return []
    mean = totals.round_seconds / totals.rounds
    # Of each phase the slowest rank counts: with several the parts come to more than the whole.
    parts = "; of each part, the slowest rank's:" if len(totals.bytes_by_rank) > 1 else ""
    spent = f"{format_seconds(totals.round_seconds)}, {format_seconds(mean)} a round{parts}"
    rows = [("time in rounds", spent)]
    whole = totals.round_seconds or 1.0
    for phase, seconds in totals.phase_seconds.items():
        if seconds > 0:
            rows.append((f"  {phase}", f"{format_seconds(seconds):>7} {100 * seconds / whole:>4.0f} %"))
    return rows


def _with_best(reading: Reading | None, best: Reading | None, digits: str = ".4f") -> str:
    if reading is None:
        return ""
    text = f"{reading.value:{digits}} (round {reading.round})"
    if best is None or best == reading:
        return text
    return f"{text}, best {best.value:{digits}} (round {best.round})"


def _text(value: object) -> str:
    """Short values as they are; nested ones have no place in a table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if isinstance(value, (str, int)) else ""
