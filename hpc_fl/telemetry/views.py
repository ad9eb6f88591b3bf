"""The two ways to show progress: a bar drawn in place, and plain lines."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

LIVE_VARIABLE: Final = "HPC_FL_LIVE"


class View(Protocol):
    """Where progress is shown."""

    interval: float
    """Seconds to leave between two calls of `show`."""

    def show(self, number: int, rounds: int, texts: Sequence[str]) -> None:
        """Show the state after round `number` of `rounds`."""

    def line(self, text: str) -> None:
        """Write one line that stays."""

    def table(self, table: "Table") -> None:
        """Write the final table; nothing is shown in place after it."""

    def stop(self) -> None:
        """Leave the screen as it was."""


class LiveView:
    """A bar in the last line of a terminal; other lines scroll by above it."""

    interval = 0.1

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def show(self, number: int, rounds: int, texts: Sequence[str]) -> None:
        """Draw the bar."""
        if self._progress is None or self._task is None:
            self._progress, self._task = self._begin(rounds)
        self._progress.update(self._task, completed=number, status="  ".join(texts))
        self._progress.refresh()

    def line(self, text: str) -> None:
        """Write a line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def table(self, table: "Table") -> None:
        """Write the table below the bar, which stays as it was last drawn."""
        self.stop()
        self._console.print(table)

    def stop(self) -> None:
        """End the drawing in place."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _begin(self, rounds: int) -> "tuple[Progress, TaskID]":
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        # Drawn by hand: a thread that redraws would take the core from the training ten times a second.
        progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            auto_refresh=False,
        )
        task = progress.add_task("", total=rounds, status="")
        progress.start()
        # A job that MPI aborts cannot give a hidden cursor back.
        self._console.show_cursor(True)
        return progress, task


class PlainView:
    """A line per state: for log files, and for terminals that cannot be drawn on."""

    interval = 1.0

    def __init__(self, console: "Console") -> None:
        self._console = console

    def show(self, number: int, rounds: int, texts: Sequence[str]) -> None:
        """Write the state as a line."""
        self.line("  ".join([f"round {number:>{len(str(rounds))}}/{rounds}", *texts]))

    def line(self, text: str) -> None:
        """Write a line, however long."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, table: "Table") -> None:
        """Write the table."""
        self._console.print(table)

    def stop(self) -> None:
        """Nothing is drawn in place."""


def choose_view(console: "Console | None", live: bool | None) -> View:
    """Return the view that suits `console` (None: standard output); `live` decides where it is not None."""
    from rich.console import Console

    if live is None:
        live = _wanted_live(console)
    if live:
        return LiveView(console or Console(force_terminal=True))
    return PlainView(console or Console(force_terminal=False, color_system=None, width=100))


def _wanted_live(console: "Console | None") -> bool:
    wish = os.environ.get(LIVE_VARIABLE)
    if wish is not None:
        return wish == "1"
    if console is not None:
        return console.is_terminal
    return os.environ.get("TERM") != "dumb" and _terminal_width() > 0


def _terminal_width() -> int:
    """Columns of standard output; 0 when it is no terminal."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 0
