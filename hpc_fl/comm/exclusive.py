"""A lock that refuses whoever holds it already: that thread would wait for itself for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hpc_fl.errors import TransportError


class Exclusive:
    """One thread at a time; `what` it guards is named in the error."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._holder: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for its turn. Raises TransportError in a thread that has it."""
        self.refuse_holder()
        with self._lock:
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._holder = None

    def refuse_holder(self) -> None:
        """Raise TransportError in the thread that holds it."""
        if self._holder == threading.get_ident():
            raise TransportError(f"{self._what}: this thread holds it; leave `with ... locked()` first")
