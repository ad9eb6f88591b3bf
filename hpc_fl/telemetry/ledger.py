"""Count of the bytes that one rank sends, by kind of traffic."""

import threading


class Ledger:
    """Bytes sent by this rank, by kind ("allreduce", "gossip", "control", ...).

    Local to one rank and never communicates. Safe to use from the training thread and a communication thread
    at once.
    """

    __slots__ = ("_lock", "_recent", "_total")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: dict[str, int] = {}
        self._total = 0

    def add(self, kind: str, nbytes: int) -> None:
        """Count `nbytes` bytes sent as `kind`; raises ValueError if negative."""
        if nbytes < 0:
            raise ValueError(f"bytes sent as {kind!r} cannot be negative, got {nbytes}")
        with self._lock:
            self._recent[kind] = self._recent.get(kind, 0) + nbytes
            self._total += nbytes

    def take(self) -> dict[str, int]:
        """Return the bytes by kind since the last take, in order of first use, and start anew."""
        with self._lock:
            recent, self._recent = self._recent, {}
        return recent

    @property
    def total(self) -> int:
        """Bytes of all kinds since the ledger was made; `take` does not change it."""
        return self._total
