"""Operations under way in MPI, and what their failures mean."""

import time
from collections.abc import Sequence
from typing import Final

from mpi4py import MPI

from hpc_fl.comm.transport import Persistent, Request
from hpc_fl.errors import TransportError, TransportTimeout

_SPINS: Final = 200
_NAP: Final = 50e-6
_abandoned: Final[list[object]] = []
"""Persistent requests that failed: MPI may still use their buffers."""


def failure(comm: MPI.Comm, what: str, error: MPI.Exception) -> TransportError:
    """The error for people; when MPI can tell that ranks died (ULFM), their numbers in MPI_COMM_WORLD."""
    text = f"rank {MPI.COMM_WORLD.Get_rank()}: {what} failed: "
    if error.Get_error_class() in (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING):
        lost = comm.Get_failed()
        numbers = MPI.Group.Translate_ranks(lost, None, MPI.COMM_WORLD.Get_group())
        if len(numbers):
            return TransportError(
                f"{text}rank {', '.join(map(str, numbers))} died ({error.Get_error_string()})"
            )
    return TransportError(text + error.Get_error_string())


class MpiRequest:
    """One operation under way; see Request. Keeps its buffers alive until it is complete."""

    __slots__ = ("_buffers", "_comm", "_limit", "_request", "_what")

    def __init__(
        self, comm: MPI.Comm, request: MPI.Request, what: str, limit: float | None, buffers: object
    ) -> None:
        self._comm, self._request, self._what, self._limit, self._buffers = (
            comm,
            request,
            what,
            limit,
            buffers,
        )

    def wait(self, timeout: float | None = None) -> None:
        limit = self._limit if timeout is None else timeout
        try:
            if limit is None:
                self._request.Wait()
            elif not self._poll(limit):
                raise TransportTimeout(
                    f"rank {MPI.COMM_WORLD.Get_rank()}: {self._what}: not complete within {limit} s"
                )
        except MPI.Exception as error:
            raise failure(self._comm, self._what, error) from None
        self._buffers = None

    def _poll(self, limit: float) -> bool:
        end, spins = time.monotonic() + limit, 0
        while not self._request.Test():
            if time.monotonic() > end:
                return False
            spins += 1
            time.sleep(0 if spins < _SPINS else _NAP)
        return True

    def done(self) -> bool:
        try:
            complete = self._request.Test()
        except MPI.Exception as error:
            raise failure(self._comm, self._what, error) from None
        if complete:
            self._buffers = None
        return complete


def persistent(comm: MPI.Comm, what: str, requests: list[MPI.Prequest]) -> Persistent:
    """The requests started in their order and waited for together; closing frees them."""
    steps = [request.Start for request in requests] + [request.Wait for request in requests]

    def run() -> None:
        try:
            for step in steps:
                step()
        except MPI.Exception as error:
            _abandoned.extend(requests)
            requests.clear()
            raise failure(comm, what, error) from None

    def close() -> None:
        while requests:
            requests.pop().Free()

    return Persistent(run, close)


class Several:
    """One request made of several: of a buffer that had to be cut."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests

    def wait(self, timeout: float | None = None) -> None:
        for request in self._requests:
            request.wait(timeout)

    def done(self) -> bool:
        complete = [request.done() for request in self._requests]  # every one must be driven
        return all(complete)
