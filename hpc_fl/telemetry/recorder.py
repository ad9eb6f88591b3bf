"""Hands each event of a run to every sink."""

from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

from hpc_fl.telemetry.events import Event


class Sink(Protocol):
    """Somewhere that events go: a file, a screen, a service."""

    def handle(self, event: Event) -> None:
        """Take one event; called between rounds, so it must be quick."""

    def close(self) -> None:
        """Write what is still pending and release files and threads."""


class Recorder:
    """Emits events to sinks in the order given. Made on every rank: without sinks on all but rank 0.

    As a context manager it closes the sinks at the end. When the block itself raised, that error is kept and
    a failure to close is only attached to it as a note.
    """

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = tuple(sinks)

    def emit(self, event: Event) -> None:
        """Hand `event` to every sink; an error of a sink is raised at once."""
        for sink in self._sinks:
            sink.handle(event)

    def close(self) -> None:
        """Close every sink, even when one fails; then raise the first error."""
        first: Exception | None = None
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"closing the telemetry failed as well: {failure}")
