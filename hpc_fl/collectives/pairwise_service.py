"""The side of pairwise averaging that answers; see :mod:`hpc_fl.collectives.pairwise`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hpc_fl.collectives.algorithm import kept_if_it_fails
from hpc_fl.collectives.patience import Patience, wait_until
from hpc_fl.comm.buffers import unusable
from hpc_fl.comm.exclusive import Exclusive
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression.arrays import all_finite
from hpc_fl.errors import TransportError, TransportTimeout
from hpc_fl.telemetry.ledger import Ledger

HEADER: Final = 0x7E01
VALUES: Final = 0x7E02
ANSWER: Final = 0x7E03

ASK: Final = np.array([1], np.uint8)
DONE: Final = np.array([2], np.uint8)
REQUEST: Final = 1
"""Bytes of a request beside the values: one that says what it is."""
_ITEM: Final = 4
_SHARE: Final = 0.5
_SHARE_ASKING: Final = 0.25


class Shared:
    """A buffer (n,) float32, which the training thread and the service thread take turns at.

    ``asking``: a copy of it is under way to a peer, whose answer has not been applied; changed in turn too.
    """

    def __init__(self, buffer: Tensor, what: str) -> None:
        if not isinstance(buffer, Tensor) or buffer.dtype != torch.float32 or buffer.ndim != 1:
            raise unusable(
                buffer, "pairwise averaging takes a tensor (n,) of float32; use x.float().view(-1)"
            )
        self._buffer = buffer.detach()
        self.lock = Exclusive(what)
        self.asking = False

    @contextmanager
    def locked(self) -> Iterator[Tensor]:
        """The buffer; what a GPU was given to do with it is done at the end."""
        with self.lock.held():
            yield self._buffer
            if self._buffer.is_cuda:
                torch.cuda.current_stream(self._buffer.device).synchronize()


def settle(requests: Sequence[Request], what: str, limit: float | None) -> None:
    """Returns when all are complete; raises :class:`TransportTimeout`."""
    if not wait_until(lambda: all(request.done() for request in requests), limit):
        raise TransportTimeout(f"{what}: no answer within {limit} s")


class Service:
    """A thread that answers the requests of ``peers``, until they and :meth:`finish` have said that they are
    done.

    A request is a header, then n values; the answer is 1 and the n differences to subtract, or 0 alone where
    this rank's buffer is not finite.
    """

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        shared: Shared,
        peers: Sequence[int],
        limit: float | None,
    ) -> None:
        self._transport, self._ledger, self._shared, self._limit = transport, ledger, shared, limit
        self.answered = 0
        self._peers = peers
        self._headers = {peer: np.zeros(1, np.uint8) for peer in peers}
        self._requests: dict[int, Request] = {peer: self._listen(peer) for peer in peers}
        with shared.locked() as buffer:
            self._scratch = np.empty(buffer.numel() + 1, np.float32)
        self._failure: BaseException | None = None
        threads = (
            torch.get_num_threads()
        )  # a new thread would take the machine's cores, not this rank's share
        self._thread = threading.Thread(
            target=self._run, args=(threads,), name="pairwise service", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Raises :class:`TransportError` where the thread has failed."""
        if self._failure is not None:
            raise TransportError(f"pairwise averaging: the service thread failed: {self._failure}") from (
                self._failure
            )

    def finish(self, timeout: float | None) -> None:
        """Tells the peers that nothing more is asked, and answers until all of them have said so."""
        requests = [self._transport.isend(DONE, peer, HEADER) for peer in self._peers]
        self._thread.join(timeout)
        self.check()
        if self._thread.is_alive():
            late = ", ".join(map(str, sorted(self._requests)))
            raise TransportTimeout(
                f"rank {self._transport.rank}: close of the pairwise averaging: rank {late} has not "
                f"called it within {timeout} s"
            )
        settle(requests, "close of the pairwise averaging", self._limit)

    def _listen(self, peer: int) -> Request:
        return self._transport.irecv(self._headers[peer], peer, HEADER)

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            with kept_if_it_fails(self._requests, self._headers, self._scratch):
                self._serve()
        except BaseException as error:
            self._failure = error

    def _serve(self) -> None:
        patience = Patience()
        while self._requests:
            come = [peer for peer, request in self._requests.items() if request.done()]
            for peer in come:
                if self._headers[peer][0] == ASK[0]:
                    self._answer(peer)
                    self._requests[peer] = self._listen(peer)
                else:
                    del self._requests[peer]
            patience.renew() if come else patience.rest()

    def _answer(self, peer: int) -> None:
        values = self._scratch[1:]
        what = f"rank {self._transport.rank}: request of rank {peer}"
        receive = self._transport.irecv(values, peer, VALUES)
        with kept_if_it_fails(receive):
            settle([receive], what, self._limit)
        sound = self._meet_half_way(torch.from_numpy(values))
        self._scratch[0] = sound
        answer = self._transport.isend(self._scratch if sound else self._scratch[:1], peer, ANSWER)
        self._ledger.add("gossip", _ITEM * len(values) * sound)
        self._ledger.add("headers", _ITEM)
        with kept_if_it_fails(answer):
            settle([answer], what, self._limit)
        self.answered += sound

    def _meet_half_way(self, theirs: Tensor) -> bool:
        """Moves the buffer by its share of the difference, which takes the place of ``theirs``. False: the
        buffer is not finite, and stays.
        """
        with self._shared.locked() as buffer:
            share = _SHARE_ASKING if self._shared.asking else _SHARE
            # Scaled first: the difference of two large numbers could be infinite.
            theirs.mul_(share).sub_(buffer.to(theirs.device), alpha=share)
            if not all_finite(theirs.numpy()):
                return False
            buffer.add_(theirs.to(buffer.device))
        return True
