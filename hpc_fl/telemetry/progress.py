"""What the person watching a run sees: a bar on a terminal, plain lines in a log, a table at the end."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.telemetry.events import (
    CheckpointWritten,
    Event,
    Notice,
    PartyLeftOut,
    RoundFinished,
    RunFinished,
    RunStarted,
)
from hpc_fl.telemetry.totals import Reading, Totals
from hpc_fl.telemetry.units import format_bytes, format_clock, format_seconds
from hpc_fl.telemetry.views import View, choose_view

if TYPE_CHECKING:
    from rich.console import Console

_MOST_IDS: Final = 10


class ProgressSink:
    """Shows a run to a person; only one rank makes it.

    live: True draws a bar in place, at most ten times a second; False writes a line per round, at most one a
    second (the first and the last round, and every other event, always). None chooses the bar on a terminal.
    mpirun gives its ranks a terminal of no width even when its output goes to a file: such a one counts as no
    terminal, so a launcher that knows better sets HPC_FL_LIVE=1, and COLUMNS to the width. HPC_FL_LIVE=0 asks
    for lines. clock: seconds, for tests.
    """

    def __init__(
        self,
        console: "Console | None" = None,
        *,
        live: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._view: View = choose_view(console, live)
        self._clock = clock
        self._totals = Totals()
        self._started: RunStarted | None = None
        self._shown = 0
        self._next_show = float("-inf")
        self._latest: RoundFinished | None = None
        self._origin: tuple[float, int] | None = None
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            RunStarted: self._run_started,
            RoundFinished: self._round_finished,
            PartyLeftOut: self._left_out,
            CheckpointWritten: self._checkpoint,
            Notice: lambda event: self._view.line(event.text),
            RunFinished: self._run_finished,
        }

    def handle(self, event: Event) -> None:
        """Show one event, or remember it until it is time to show."""
        self._handlers[type(event)](event)

    def close(self) -> None:
        """Leave the terminal as it was; closing twice is allowed."""
        self._view.stop()

    def _run_started(self, event: RunStarted) -> None:
        self._started = event
        facts = "".join(f", {key} {value}" for key, value in event.facts.items())
        self._view.line(
            f"run {event.name}: {_count(event.parties, 'party', 'parties')} on "
            f"{_count(event.world_size, 'rank')}, {event.parameters:,} parameters, "
            f"{_rounds_ahead(event)}{facts}"
        )

    def _round_finished(self, event: RoundFinished) -> None:
        self._totals.add(event.metrics)
        self._latest = event
        now = self._clock()
        if self._origin is None:
            self._origin = (now, event.round)
        if now >= self._next_show or event.round == event.rounds:
            self._show(event, now)

    def _show(self, event: RoundFinished, now: float) -> None:
        self._next_show = now + self._view.interval
        self._shown = event.round
        self._view.show(event.round, event.rounds, self._texts(event, now))

    def _texts(self, event: RoundFinished, now: float) -> list[str]:
        """The parts of a status line: quality, bytes, speed."""
        totals = self._totals
        seconds = self._seconds_per_round(event, now)
        left = event.rounds - event.round
        texts = [
            _quality("accuracy", totals.accuracy, event.round),
            _quality("own models", totals.model_accuracy, event.round),
            _quality("loss", totals.loss, event.round),
            "" if totals.loss else _quality("train loss", totals.train_loss, event.round),
            _quality("distance", totals.consensus_distance, event.round, ".3g"),
            f"sent {format_bytes(totals.bytes_total)}",
            f"{format_seconds(seconds)}/round",
            f"ETA {format_clock(seconds * left)}" if left > 0 else "",
            f"left out {totals.left_out:,} updates" if totals.left_out else "",
        ]
        return [text for text in texts if text]

    def _seconds_per_round(self, event: RoundFinished, now: float) -> float:
        """Wall seconds a round since the first one, whose start-up costs do not repeat."""
        began, first = self._origin or (now, event.round)
        if event.round > first:
            return (now - began) / (event.round - first)
        return float(event.metrics.get("round_seconds", 0.0))

    def _left_out(self, event: PartyLeftOut) -> None:
        ids = ", ".join(map(str, event.party_ids[:_MOST_IDS]))
        more = len(event.party_ids) - _MOST_IDS
        tail = f" and {more} more" if more > 0 else ""
        noun = "party" if len(event.party_ids) == 1 else "parties"
        self._view.line(f"round {event.round}: left out {noun} {ids}{tail}: {event.reason}")

    def _checkpoint(self, event: CheckpointWritten) -> None:
        best = " (the best checkpoint so far)" if event.best else ""
        self._view.line(
            f"round {event.round}: checkpoint {event.path}{best}, written in {format_seconds(event.seconds)}"
        )

    def _run_finished(self, event: RunFinished) -> None:
        if self._latest is not None and self._latest.round != self._shown:
            self._show(self._latest, self._clock())
        from hpc_fl.telemetry.outcome import outcome_table

        self._view.table(outcome_table(event, self._started, self._totals))


def _quality(name: str, reading: Reading | None, current_round: int, digits: str = ".4f") -> str:
    """A value, with the round of its evaluation where that is an earlier one; empty where there is none."""
    if reading is None:
        return ""
    stale = "" if reading.round == current_round else f" @{reading.round}"
    return f"{name} {reading.value:{digits}}{stale}"


def _count(number: int, singular: str, plural: str | None = None) -> str:
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _rounds_ahead(event: RunStarted) -> str:
    left = event.rounds - event.first_round + 1
    return f"rounds {event.first_round} to {event.rounds}" if left > 0 else "no round left"
