"""Wall seconds that one rank spends in each phase of a round."""

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Final, TypeVar

from hpc_fl.telemetry.trace import Trace

T = TypeVar("T")

PHASES: Final = ("train", "encode", "communicate", "decode", "evaluate", "checkpoint")


class Span:
    """Context manager of one phase; made by `Spans`, entered any number of times."""

    __slots__ = ("_depth", "_start", "_trace", "name", "seconds")

    def __init__(self, name: str, trace: Trace | None) -> None:
        self.name = name
        self.seconds = 0.0
        self._trace = trace
        self._depth = 0
        self._start = 0.0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._start = perf_counter()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            duration = perf_counter() - self._start
            self.seconds += duration
            if self._trace is not None:
                self._trace.add(self.name, self._start, duration)


class Spans:
    """Timer of phases: `with spans("train"): ...` adds the wall seconds of the block to that phase.

    Spans of different names may be nested; the outer one keeps the time of the inner one. A name entered
    within itself is counted once. One object serves one thread. Each span is also written to `trace` where
    one is given.
    """

    __slots__ = ("_spans", "_trace")

    def __init__(self, trace: Trace | None = None) -> None:
        self._trace = trace
        self._spans = {name: Span(name, trace) for name in PHASES}

    def __call__(self, phase: str) -> Span:
        """Return the context manager of `phase`; names outside PHASES are allowed."""
        try:
            return self._spans[phase]
        except KeyError:
            span = self._spans[phase] = Span(phase, self._trace)
            return span

    def each(self, phase: str, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, which are not None; the time that making each takes is the phase's."""
        working = iter(items)
        while True:
            with self(phase):
                item = next(working, None)
            if item is None:
                return
            yield item
            del item  # its memory is free before the next one is made

    def take(self) -> dict[str, float]:
        """Return the seconds by phase since the last take, and start anew.

        Every name of PHASES is present, in that order (0.0 where it was not entered), so that ranks can
        reduce the values as one vector; other names follow. The time of a span still open is counted when it
        ends.
        """
        seconds = {name: span.seconds for name, span in self._spans.items()}
        for span in self._spans.values():
            span.seconds = 0.0
        return seconds
