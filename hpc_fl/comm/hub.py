"""Where ranks that are threads leave parcels for each other, under the in-process transport."""

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from hpc_fl.errors import TransportError, TransportTimeout


class Hub:
    """The parcels of all groups of one run, and the first failure, under one lock."""

    def __init__(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.changed = threading.Condition()
        self.parcels: defaultdict[Hashable, dict[int, object]] = defaultdict(dict)
        self.taken: defaultdict[Hashable, int] = defaultdict(int)
        self.failure: str | None = None

    def fail(self, why: str) -> None:
        """Let every rank that waits, now or later, raise TransportError."""
        with self.changed:
            self.failure = self.failure or why
            self.changed.notify_all()

    def put(self, key: Hashable, rank: int, parcel: object) -> None:
        with self.changed:
            self.parcels[key][rank] = parcel
            self.changed.notify_all()

    def ready(self, key: Hashable, wanted: int) -> bool:
        """Whether all `wanted` parcels lie under `key`. The lock must be held."""
        if len(self.parcels[key]) == wanted:
            return True
        if self.failure is not None:
            raise TransportError(self.failure)
        return False


@dataclass(slots=True)
class Pending:
    """A request that is complete when `ranks` have left their parcels; `finish` gets them, once, by rank.

    The last of `readers` to take them clears them away.
    """

    hub: Hub
    key: Hashable
    ranks: Sequence[int]
    readers: int
    what: str
    finish: Callable[[list[Any]], None] | None

    def wait(self, timeout: float | None = None) -> None:
        if self.finish is None:
            return
        hub, key = self.hub, self.key
        limit = hub.timeout if timeout is None else timeout
        with hub.changed:
            if not hub.changed.wait_for(lambda: hub.ready(key, len(self.ranks)), limit):
                late = ", ".join(str(rank) for rank in self.ranks if rank not in hub.parcels[key])
                raise TransportTimeout(f"{self.what}: nothing from rank {late} within {limit} s")
            parcels = [hub.parcels[key][rank] for rank in self.ranks]
            hub.taken[key] += 1
            if hub.taken[key] == self.readers:
                del hub.parcels[key], hub.taken[key]
        finish, self.finish = self.finish, None
        finish(parcels)

    def done(self) -> bool:
        if self.finish is not None:
            with self.hub.changed:
                if not self.hub.ready(self.key, len(self.ranks)):
                    return False
            self.wait()
        return True


class Done:
    """A request that was complete when it was made."""

    def wait(self, timeout: float | None = None) -> None:
        """Nothing to wait for."""

    def done(self) -> bool:
        return True
