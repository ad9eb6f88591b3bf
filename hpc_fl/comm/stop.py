"""Signals that ask a run to stop at the end of the round. Standard library only."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final

_ASKING: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Within it, SIGTERM, SIGUSR1 and SIGINT are only noted; a second SIGINT raises KeyboardInterrupt.

    Python can take signals in its main thread only: entered in another thread (ranks as threads, in tests) it
    leaves the signals alone, and `requested` stays None.
    """

    def __init__(self) -> None:
        self._noted: str | None = None
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> str | None:
        """The name of the first signal that asked to stop ("SIGTERM"), else None."""
        return self._noted

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._interrupts += signum == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self._noted = self._noted or signal.Signals(signum).name

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._note) for signum in _ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
