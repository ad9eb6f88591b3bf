"""How a thread waits for messages: looks often at first, then rests ever longer, and so burns no core."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_LOOKS: Final = 50
_FIRST_NAP: Final = 10e-6
_LONGEST_NAP: Final = 200e-6


class Patience:
    """Rests between looks; each rest is longer than the last, from nothing to 0.2 ms."""

    def __init__(self) -> None:
        self._looks, self._nap = 0, _FIRST_NAP

    def rest(self) -> None:
        """Nothing was there."""
        self._looks += 1
        if self._looks <= _LOOKS:
            time.sleep(0)  # lets the other threads have the GIL
            return
        time.sleep(self._nap)
        self._nap = min(2 * self._nap, _LONGEST_NAP)

    def renew(self) -> None:
        """Something was: more may follow soon."""
        self._looks, self._nap = 0, _FIRST_NAP


def wait_until(ready: Callable[[], bool], limit: float | None) -> bool:
    """Whether ``ready()`` came true within ``limit`` seconds; None: for ever."""
    patience, end = Patience(), None if limit is None else time.monotonic() + limit
    while not ready():
        if end is not None and time.monotonic() > end:
            return False
        patience.rest()
    return True
