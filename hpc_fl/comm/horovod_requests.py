"""Operations under way in Horovod."""

import time
from collections.abc import Callable
from typing import Any, Final

from hpc_fl.errors import TransportError, TransportTimeout

_SPINS: Final = 200
_NAP: Final = 50e-6


def failed(what: str, error: Exception) -> TransportError:
    """The error for people: the first line of Horovod's own."""
    return TransportError(f"{what} failed: {str(error).strip().partition(chr(10))[0]}")


class HorovodRequest:
    """One operation under way; see Request. Horovod keeps its tensors alive until it is complete.

    `finish` gets what the operation returns, once; TransportError from it is the operation's failure.
    """

    __slots__ = ("_failure", "_finish", "_handle", "_hvd", "_limit", "_what")

    def __init__(
        self, hvd: Any, handle: int, what: str, limit: float | None, finish: Callable[[Any], None] | None
    ) -> None:
        self._hvd, self._what, self._limit, self._finish = hvd, what, limit, finish
        self._handle: int | None = handle
        self._failure: TransportError | None = None

    def wait(self, timeout: float | None = None) -> None:
        limit = self._limit if timeout is None else timeout
        end = None if limit is None else time.monotonic() + limit
        spins = 0
        # Not Horovod's own wait: no signal is handled in it, and it keeps a core busy.
        while not self.done():
            if end is not None and time.monotonic() > end:
                raise TransportTimeout(f"{self._what}: not complete within {limit} s")
            spins += 1
            time.sleep(0 if spins < _SPINS else _NAP)

    def done(self) -> bool:
        if self._failure is not None:
            raise self._failure
        if self._handle is None:
            return True
        try:
            if not self._hvd.poll(self._handle):
                return False
            result = self._hvd.synchronize(self._handle)
            self._handle = None
            if self._finish is not None:
                self._finish(result)
        except TransportError as error:
            self._failure = error
            raise
        except (RuntimeError, ValueError) as error:  # ValueError: Horovod was shut down, and forgot it
            self._failure = failed(self._what, error)
            raise self._failure from None
        return True
