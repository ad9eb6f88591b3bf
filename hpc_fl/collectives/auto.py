"""The dense allreduce that is the fastest for a buffer of its size, on the machines at hand."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from torch import Tensor, float32

from hpc_fl.collectives.choice import SIZES, UP_TO, Choice, Choices
from hpc_fl.collectives.collective import Collective, Handle
from hpc_fl.collectives.dense import DenseAllreduce
from hpc_fl.collectives.doubling import Doubling
from hpc_fl.collectives.lane import Lane
from hpc_fl.collectives.measure import measure
from hpc_fl.collectives.node import host_names, numbered
from hpc_fl.collectives.ring import Ring
from hpc_fl.collectives.twolevel import TwoLevel
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger

_SMALL: Final = 1
"""Up to SIZES[1], 128 KB, recursive doubling is worth a trial; from there on the ring."""

_REMEMBERED: Final = 1024
"""Sizes of buffers for which the way is known without another thought."""


class AutoDense:
    """MPI's own allreduce, the ring, recursive doubling or two levels: what a short measurement found.

    See :class:`Collective`. Making one is collective: every rank must. A size is measured when it is first
    used, for about a second at 1 Gbit/s, and the choice kept: :func:`hpc_fl.collectives.choice.cache_path`.
    What is sent for that is charged as "measuring". Device tensors, and other numbers than float32, go MPI's
    own way. ``start`` runs in a thread of its own, on a duplicate of the transport, with the same result.
    """

    name = "auto"

    def __init__(self, transport: Transport, ledger: Ledger) -> None:
        self._ledger = ledger
        self._own = DenseAllreduce(transport, ledger)
        self._transport = transport.dup()
        self._lane = Lane("dense allreduce")
        hosts = host_names(transport)
        self._nodes = numbered(hosts)
        self._choices = Choices(self._transport, hosts, self._measure)
        self._made: dict[str, Collective] = {}
        self._chosen: dict[int, Collective] = {}
        self._known: dict[int, Callable[[Tensor], None]] = {}

    def allreduce(self, buffer: Tensor) -> None:
        # One look-up before MPI's own, which takes 3 us for 4 KB between two ranks of a machine.
        known = self._known.get(buffer.numel()) or self._remember(buffer.numel())
        known(buffer)

    def start(self, buffer: Tensor) -> Handle:
        if not _is_ours(buffer):
            return self._own.start(buffer)
        return self._lane.submit(partial(self._algorithm(buffer.numel()).allreduce, buffer))

    def choice(self, n: int) -> Choice:
        """What is used for ``n`` elements, and why (collective: it may have to be measured first)."""
        return self._lane.run(partial(self._choices.at, bisect_left(UP_TO, n)))

    def close(self) -> None:
        """Ends the thread, and frees what was made for the choices (collective)."""
        self._lane.close()
        self._close(self._made)
        self._transport.close()

    def _remember(self, n: int) -> Callable[[Tensor], None]:
        """What sums buffers of ``n`` elements at once."""
        algorithm = self._algorithm(n)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        # MPI's own goes over the transport itself, beside what is queued over the duplicate.
        mpi = algorithm.name == DenseAllreduce.name
        self._known[n] = self._own.allreduce if mpi else partial(self._in_turn, algorithm)
        return self._known[n]

    def _in_turn(self, algorithm: Collective, buffer: Tensor) -> None:
        if _is_ours(buffer):
            self._lane.run(partial(algorithm.allreduce, buffer))
        else:
            self._own.allreduce(buffer)

    def _algorithm(self, n: int) -> Collective:
        """The fastest for ``n`` elements, over the duplicate."""
        index = bisect_left(UP_TO, n)
        # Asked in its turn once, and then no more: what is queued would have to be waited for.
        if index not in self._chosen:
            name = self.choice(n).name
            if name not in self._made:
                self._made[name] = self._lane.run(partial(self._make, name, self._ledger))
            self._chosen[index] = self._made[name]
        return self._chosen[index]

    def _make(self, name: str, ledger: Ledger) -> Collective:
        if name == TwoLevel.name:
            return TwoLevel(self._transport, ledger, nodes=self._nodes)
        return _FLAT[name](self._transport, ledger)

    def _measure(self, index: int) -> Mapping[str, float]:
        if self._transport.size == 1:
            return {DenseAllreduce.name: 0.0}
        names = [DenseAllreduce.name]
        names += [Doubling.name] if index <= _SMALL else []
        names += [Ring.name] if index >= _SMALL else []
        names += [TwoLevel.name] if len(set(self._nodes)) < len(self._nodes) else []
        sent = Ledger()
        candidates = {name: self._make(name, sent) for name in names}
        seconds = measure(self._transport, candidates, SIZES[index])
        self._close(candidates)
        self._ledger.add("measuring", sent.total)
        return seconds

    @staticmethod
    def _close(algorithms: Mapping[str, Collective]) -> None:
        for algorithm in algorithms.values():
            if isinstance(algorithm, TwoLevel):
                algorithm.close()


def _is_ours(buffer: Tensor) -> bool:
    """Whether the algorithms written in Python take it."""
    return buffer.is_cpu and buffer.dtype == float32


_FLAT: Final[dict[str, Callable[[Transport, Ledger], Collective]]] = {
    DenseAllreduce.name: DenseAllreduce,
    Ring.name: Ring,
    Doubling.name: Doubling,
}
