"""Laws of what the person watching sees: how often, and what can never be missing."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hpc_fl.telemetry import (
    CheckpointWritten,
    Notice,
    PartyLeftOut,
    ProgressSink,
    RoundFinished,
    RunFinished,
    RunStarted,
)
from hpc_fl.telemetry.units import byte_unit, format_bytes, format_seconds, time_unit
from hpc_fl.telemetry.views import LiveView, PlainView, choose_view

START = RunStarted("digits", Path("/runs/a[b]c"), 4, 10, 4810, 1, 1000, {"strategy": "fedavg"})


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def sink(live: bool, clock: Callable[[], float]) -> tuple[ProgressSink, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=live, width=160)
    return ProgressSink(console, live=live, clock=clock), out


def finished(number: int, **metrics: Any) -> RoundFinished:
    record = {"round": number, "round_seconds": 0.01, "bytes_sent": {"allreduce": [500_000, 500_000]}}
    return RoundFinished(number, 1000, record | metrics)


def run(live: bool, rounds: int = 1000, step: float = 0.01) -> str:
    clock = Clock()
    progress, out = sink(live, clock)
    progress.handle(START)
    for number in range(1, rounds + 1):
        clock.now += step
        progress.handle(finished(number, accuracy=number / 1000, loss=0.5))
    progress.handle(RunFinished("completed", rounds, rounds * step, {"seed": 7}))
    progress.close()
    progress.close()
    return out.getvalue()


def test_plain_lines_come_at_most_once_a_second_with_the_first_and_the_last() -> None:
    lines = [line for line in run(live=False).splitlines() if line.startswith("round ")]
    numbers = [int(line.split("/")[0].removeprefix("round")) for line in lines]
    assert numbers[0] == 1
    assert numbers[-1] == 1000
    assert 10 <= len(numbers) <= 12
    assert "\x1b" not in run(live=False)


def test_a_line_says_quality_bytes_speed_and_time_left() -> None:
    clock = Clock()
    progress, out = sink(False, clock)
    progress.handle(finished(1, accuracy=0.25, loss=2.0))
    clock.now = 100.0
    progress.handle(finished(201, left_out=[3]))
    line = out.getvalue().splitlines()[-1]
    for text in (
        "201/1000",
        "accuracy 0.2500 @1",
        "loss 2.0000 @1",
        "sent 2.00 MB",
        "500 ms/round",
        "ETA 0:06:40",
    ):
        assert text in line
    assert "left out 1" in line


def test_own_models_and_their_distance_are_shown_where_parties_have_own_models() -> None:
    progress, out = sink(False, Clock())
    progress.handle(finished(1, accuracy=0.5, model_accuracy={"mean": 0.4321}, consensus_distance=0.00012345))
    progress.handle(RunFinished("completed", 1, 0.0, {}))
    line, *table = out.getvalue().splitlines()
    assert "own models 0.4321" in line
    assert "distance 0.000123" in line
    assert any("accuracy of own models" in row and "0.4321 (round 1)" in row for row in table)
    assert any("consensus distance" in row and "0.000123 (round 1)" in row for row in table)
    for word in ("own models", "distance"):
        assert word not in run(live=False)


def test_a_bar_is_drawn_at_most_ten_times_a_second() -> None:
    text = run(live=True)
    # Each drawing returns to the beginning of the line; 10 s allow 100 of them and the last.
    assert 90 <= text.count("\r") <= 110
    assert "1000/1000" in text


def test_the_bar_leaves_the_cursor_visible_while_it_runs() -> None:
    progress, out = sink(True, Clock())
    progress.handle(finished(1))
    text = out.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    progress.close()


@pytest.mark.parametrize("live", [False, True])
def test_no_event_but_rounds_is_ever_dropped(live: bool) -> None:
    progress, out = sink(live, Clock())
    for number in range(1, 20):
        progress.handle(finished(number))
        progress.handle(PartyLeftOut(number, (number,), "NaN [bold]"))
        progress.handle(CheckpointWritten(number, Path(f"/c/round-{number}"), number == 3, 0.1))
        progress.handle(Notice(f"notice {number}."))
    progress.close()
    for number in range(1, 20):
        assert f"left out party {number}: NaN [bold]" in out.getvalue()
        assert f"/c/round-{number}" in out.getvalue()
        assert f"notice {number}." in out.getvalue()


def test_many_parties_left_out_are_counted_not_listed() -> None:
    progress, out = sink(False, Clock())
    progress.handle(PartyLeftOut(1, tuple(range(1000)), "silent"))
    assert "0, 1, 2" in out.getvalue()
    assert "990 more" in out.getvalue()
    assert len(out.getvalue()) < 200


def test_a_run_stopped_between_two_lines_still_shows_its_last_round() -> None:
    text = run(live=False, rounds=7)
    assert "round    7/1000" in text


@pytest.mark.parametrize("live", [False, True])
def test_the_table_tells_the_outcome(live: bool) -> None:
    text = run(live)
    for wanted in ("completed", "1.0000", "1.00 GB", "500 MB", "a round", "/runs/a[b]c", "seed", "fedavg"):
        assert wanted in text


def test_a_run_that_did_nothing_still_ends_with_a_table() -> None:
    progress, out = sink(False, Clock())
    progress.handle(RunFinished("stopped by SIGTERM", 0, 0.0, {}))
    assert "stopped by SIGTERM" in out.getvalue()


def test_the_view_follows_wish_then_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file = Console(file=io.StringIO(), force_terminal=True), Console(file=io.StringIO())
    monkeypatch.delenv("HPC_FL_LIVE", raising=False)
    assert isinstance(choose_view(terminal, None), LiveView)
    assert isinstance(choose_view(file, None), PlainView)
    assert isinstance(choose_view(terminal, False), PlainView)
    monkeypatch.setenv("HPC_FL_LIVE", "0")
    assert isinstance(choose_view(terminal, None), PlainView)
    monkeypatch.setenv("HPC_FL_LIVE", "1")
    assert isinstance(choose_view(None, None), LiveView)


def test_a_terminal_without_width_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Open MPI gives its ranks, even when its output goes to a file."""
    monkeypatch.delenv("HPC_FL_LIVE", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("hpc_fl.telemetry.views._terminal_width", lambda: 0)
    assert isinstance(choose_view(None, None), PlainView)
    monkeypatch.setattr("hpc_fl.telemetry.views._terminal_width", lambda: 120)
    assert isinstance(choose_view(None, None), LiveView)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345_678, "12.3 MB"),
        (4.5e11, "450 GB"),
        (2e15, "2000 TB"),
    ],
)
def test_bytes_have_decimal_units(value: float, text: str) -> None:
    assert format_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00 s"),
        (0.00152, "1.52 ms"),
        (0.25, "250 ms"),
        (12.34, "12.3 s"),
        (125, "0:02:05"),
        (90_000, "1 day, 1:00:00"),
    ],
)
def test_times_have_units(value: float, text: str) -> None:
    assert format_seconds(value) == text


def test_axis_units_suit_the_largest_value() -> None:
    assert byte_unit(5e6) == (1e6, "MB")
    assert byte_unit(0) == (1.0, "B")
    assert time_unit(100) == (1.0, "s")
    assert time_unit(7200) == (60.0, "min")
    assert time_unit(86_400) == (3600.0, "h")
