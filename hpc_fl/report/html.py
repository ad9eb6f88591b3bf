"""report.html: the run on one self-contained page, and curves.png beside it."""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hpc_fl.errors import HpcFlError
from hpc_fl.report import drawing, figures, sections, style
from hpc_fl.report.canvas import plotting, svg, write_png
from hpc_fl.report.consensus import consensus
from hpc_fl.report.folder import RunFolder, read_run
from hpc_fl.telemetry.totals import Reading
from hpc_fl.telemetry.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT_FILE: Final = "report.html"
CURVES_FILE: Final = "curves.png"

_PLOTS: Final[
    Sequence[tuple[str, str | Callable[[RunFolder], str], "Callable[[RunFolder], Figure | None]"]]
] = (
    (
        "Accuracy and loss against rounds, bytes and time",
        "The same values against three costs. Long runs: means over several rounds, here and below.",
        figures.quality_against_cost,
    ),
    (
        "Differences between parties",
        "Spread of the accuracies measured party by party.",
        figures.party_spread,
    ),
    (
        "Consensus of the parties' own models",
        "Distance: root of the mean squared distance of a party's parameters to the mean of all. "
        "The consensus model is that mean.",
        consensus,
    ),
    (
        "Topology",
        drawing.caption,
        drawing.topology,
    ),
    (
        "Where the time went",
        "Each phase is its maximum over the ranks, so that phases may add up to more than the whole round.",
        figures.time_by_phase,
    ),
    (
        "What each rank sent",
        "Ranks are numbered as in the world of each round.",
        figures.bytes_by_rank,
    ),
)

_SECTIONS: Final = (
    sections.left_out,
    sections.checkpoints,
    sections.notices,
    sections.configuration,
    sections.versions,
)


def write_report(run_dir: Path) -> Path:
    """Write report.html and curves.png into `run_dir` and return the path of the page.

    Works on a run in progress and on any number of rounds from one up. One process calls it. Raises
    HpcFlError when metrics.jsonl is missing, empty or damaged, when topology.json is damaged, when matplotlib
    is not installed, or when the folder cannot be written.
    """
    run = read_run(run_dir)
    with plotting():
        page = render(run)
        picture = figures.curves(run)
        try:
            if picture is not None:
                write_png(picture, run_dir / CURVES_FILE)
            (run_dir / REPORT_FILE).write_text(page, encoding="utf-8")
        except OSError as error:
            raise HpcFlError(f"{run_dir}: {error.strerror or error}; the report is written there") from error
    return run_dir / REPORT_FILE


def render(run: RunFolder) -> str:
    """Return the page; called within `plotting()`."""
    name = str(run.last_event("RunStarted").get("name") or run.path.resolve().name)
    parts = [_head(run, name), _numbers(run)]
    for place, (title, note, draw) in enumerate(_PLOTS):
        figure = draw(run)
        if figure is not None:
            picture, text = svg(figure, f"plot{place}"), escape(note if isinstance(note, str) else note(run))
            parts.append(f'{sections.heading(title)}<p class="note">{text}</p><figure>{picture}</figure>')
    parts += [section(run) for section in _SECTIONS]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style.PAGE}</style></head>\n<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def _head(run: RunFolder, name: str) -> str:
    started, last = run.last_event("RunStarted"), run.records[-1]
    planned = started.get("rounds")
    done = f"{last['round']:,} of {planned:,} rounds" if planned else f"{last['round']:,} rounds"
    facts = {
        "parties": f"{started['parties']:,}" if "parties" in started else None,
        "ranks": f"{last['world_size']:,}" if "world_size" in last else None,
        "parameters": f"{started['parameters']:,}" if "parameters" in started else None,
        **started.get("facts", {}),
    }
    shown = " &middot; ".join(f"{escape(key)} {escape(str(value))}" for key, value in facts.items() if value)
    state = f'<span class="state">{escape(run.state)}</span>, {done}'
    return f'<h1>{escape(name)}</h1><p>{state}</p><p class="note">{shown}</p>'


def _numbers(run: RunFolder) -> str:
    """The figures that are asked for first."""
    totals = run.totals
    by_rank = totals.bytes_by_rank
    mean = totals.round_seconds / totals.rounds
    tiles = [
        _quality_tile("test accuracy", totals.accuracy, totals.best_accuracy),
        _quality_tile("test loss", totals.loss, totals.best_loss),
        _distance_tile(totals.consensus_distance),
        ("sent by all ranks", format_bytes(totals.bytes_total), _per_rank(by_rank)),
        ("wall time", format_seconds(run.elapsed[-1]), f"{format_seconds(mean)} a round"),
        ("updates left out", f"{totals.left_out:,}", _per_rounds(run)),
    ]
    cells = (
        f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in filter(None, tiles)
    )
    return f'<dl class="numbers">{"".join(cells)}</dl>'


def _quality_tile(name: str, last: Reading | None, best: Reading | None) -> tuple[str, str, str] | None:
    if last is None or best is None:
        return None
    note = "the best so far" if best == last else f"best {best.value:.4f} in round {best.round:,}"
    return name, f"{last.value:.4f}", f"round {last.round:,}; {note}"


def _distance_tile(last: Reading | None) -> tuple[str, str, str] | None:
    return None if last is None else ("consensus distance", f"{last.value:.3g}", f"round {last.round:,}")


def _per_rank(by_rank: Sequence[int]) -> str:
    return f"{format_bytes(sum(by_rank) / len(by_rank))} a rank" if by_rank else ""


def _per_rounds(run: RunFolder) -> str:
    touched = sum(1 for record in run.records if record.get("left_out"))
    return f"in {touched:,} of {len(run.records):,} rounds"
