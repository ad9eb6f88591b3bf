"""What every dense allreduce must do, for any number of ranks. Every rank calls each law with its transport,
and with the case: how the algorithm is made, and what it promises.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_fl.collectives import (
    Collective,
    DenseAllreduce,
    Doubling,
    Halves,
    Ring,
    TwoLevel,
    doubling_bytes,
    ring_bytes,
    twolevel_bytes,
)
from hpc_fl.collectives.node import MessageNode
from hpc_fl.comm.buffers import host_array
from hpc_fl.comm.transport import Buffer, Request, Transport
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger

Floats = NDArray[np.float32]


def pairs(ranks: int) -> list[int]:
    """Machines of two ranks, the last of one where their number is odd."""
    return [rank // 2 for rank in range(ranks)]


def scattered(ranks: int) -> list[int]:
    """Machines of unlike size, their ranks not in a row: 1 0 2 0 2 2 1 2."""
    return [(1, 0, 2, 0, 2, 2, 1, 2)[rank] for rank in range(ranks)]


@dataclass(frozen=True)
class Case:
    """An algorithm under test."""

    make: Callable[[Transport, Ledger], Collective]
    sent: Callable[[int, int, int], int] | None
    """(n, ranks, rank) -> bytes sent; None where MPI does not tell."""
    unit: float = 2.0**-24
    """Relative error of rounding once."""
    tiny: float = 0.0
    """Absolute error of rounding once, of what is too small."""
    start_like_allreduce: bool = True
    """Whether ``start`` promises the same bits."""


CASES = {
    "dense": Case(DenseAllreduce, None, start_like_allreduce=False),
    "ring": Case(Ring, ring_bytes),
    "ring-segments": Case(lambda t, x: Ring(t, x, segment=997, ahead=3), ring_bytes),
    "doubling": Case(Doubling, doubling_bytes),
    "fp16": Case(
        lambda t, x: Halves(t, x, "fp16", segment=997, ahead=2),
        lambda n, p, r: ring_bytes(n, p, r, 2), 2.0**-11, 2.0**-25,
    ),
    "bf16": Case(lambda t, x: Halves(t, x, "bf16"), lambda n, p, r: ring_bytes(n, p, r, 2), 2.0**-8),
    "twolevel": Case(TwoLevel, lambda n, p, r: twolevel_bytes(n, [0] * p, r, shared=True)),
    "twolevel-pairs": Case(
        lambda t, x: TwoLevel(t, x, nodes=pairs(t.size)),
        lambda n, p, r: twolevel_bytes(n, pairs(p), r, shared=True),
    ),
    "twolevel-scattered": Case(
        lambda t, x: TwoLevel(t, x, nodes=scattered(t.size), between=Doubling), None
    ),
    "twolevel-messages": Case(
        lambda t, x: TwoLevel(t, x, nodes=scattered(t.size), inside=MessageNode),
        lambda n, p, r: twolevel_bytes(n, scattered(p), r, shared=False),
    ),
}  # fmt: skip
"""By name."""


class Counting:
    """A transport, and all made of it, whose sends are counted in bytes."""

    def __init__(self, inner: Transport, sent: list[int]) -> None:
        self._inner, self.sent = inner, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def send(self, buf: Buffer, dest: int, tag: int = 0) -> None:
        self.sent.append(host_array(buf).nbytes)
        self._inner.send(buf, dest, tag)

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        self.sent.append(host_array(buf).nbytes)
        return self._inner.isend(buf, dest, tag)

    def split(self, color: int, key: int = 0) -> "Counting":
        return Counting(self._inner.split(color, key), self.sent)

    def dup(self) -> "Counting":
        return Counting(self._inner.dup(), self.sent)


@contextmanager
def made(case: Case, t: Transport, ledger: Ledger | None = None) -> Iterator[Collective]:
    """The algorithm, closed in the end."""
    collective = case.make(t, ledger or Ledger())
    yield collective
    if isinstance(collective, TwoLevel):
        collective.close()


def sizes(ranks: int) -> list[int]:
    return [0, 1, 7, ranks - 1, ranks, ranks + 1, 1000, 100_003]


def inputs(ranks: int, n: int) -> list[Floats]:
    """Every rank's numbers, of all magnitudes that 16 bits can hold."""
    rngs = [np.random.default_rng([rank, n]) for rank in range(ranks)]
    return [(rng.standard_normal(n) * 10.0 ** rng.integers(-6, 4)).astype(np.float32) for rng in rngs]


def summed(collective: Collective, x: Floats) -> Floats:
    buffer = torch.from_numpy(x.copy())
    collective.allreduce(buffer)
    out: Floats = buffer.numpy()
    return out


def agree(t: Transport, x: Floats) -> bool:
    """Whether all ranks hold the same bits."""
    marks = np.zeros(t.size, np.int64)
    t.allgather(np.array([crc32(x.tobytes())], np.int64), marks)
    return len(set(marks.tolist())) == 1


def law_it_is_the_sum(t: Transport, case: Case) -> None:
    """Equal to the sum in float64, but for P roundings of what is no larger than the sum of magnitudes; the
    same bits on all ranks, and the same again.
    """
    with made(case, t) as collective:
        for n in sizes(t.size):
            everyone = np.stack(inputs(t.size, n)).astype(np.float64)
            result = summed(collective, inputs(t.size, n)[t.rank])
            bound = t.size * (1.01 * case.unit * np.abs(everyone).sum(0) + case.tiny)
            assert (np.abs(result - everyone.sum(0)) <= bound).all()
            assert agree(t, result)
            assert summed(collective, inputs(t.size, n)[t.rank]).tobytes() == result.tobytes()


def law_bytes_are_those_of_the_formula(t: Transport, case: Case) -> None:
    """The ledger has what was passed to send, which is what the formula says."""
    counting, ledger = Counting(t, []), Ledger()
    with made(case, cast(Transport, counting), ledger) as collective:
        for n in sizes(t.size):
            counting.sent.clear()
            before = ledger.total
            collective.allreduce(torch.ones(n))
            if case.make is not DenseAllreduce:
                assert ledger.total - before == sum(counting.sent)
            if case.sent is not None:
                assert ledger.total - before == case.sent(n, t.size, t.rank)
    assert set(ledger.take()) <= {"allreduce"}


def law_started_ones_complete_in_order(t: Transport, case: Case) -> None:
    """Several at once, of unlike size, and a blocking one behind them: each has the bits it has alone."""
    with made(case, t) as collective:
        given = [inputs(t.size, n)[t.rank] for n in (1000, 7, 30_011, 0, 1)]
        alone = [summed(collective, x) for x in given]
        buffers = [torch.from_numpy(x.copy()) for x in given]
        handles = [collective.start(buffer) for buffer in buffers[:-1]]
        if case.start_like_allreduce:
            collective.allreduce(buffers[-1])
        else:
            handles.append(collective.start(buffers[-1]))
        for handle in reversed(handles):
            handle.wait()
        for buffer, expected in zip(buffers, alone, strict=True):
            if case.start_like_allreduce:
                assert buffer.numpy().tobytes() == expected.tobytes()
            np.testing.assert_allclose(buffer.numpy(), expected, rtol=1e-3, atol=1e-3)


def law_nothing_around_it_changes(t: Transport, case: Case) -> None:
    """Rows of a matrix are summed where they lie."""
    with made(case, t) as collective:
        whole = torch.ones(4, 33)
        collective.allreduce(whole[1:3])
        assert whole.sum(1).tolist() == [33, 33 * t.size, 33 * t.size, 33]


def law_what_is_not_finite_agrees(t: Transport, case: Case) -> None:
    """Of infinities, and of NaN with unlike bits on each rank, all ranks get the same bits."""
    if case.make is DenseAllreduce:
        return  # nothing is known of MPI's
    x = np.ones(1000, np.float32)
    x[1::7] = np.inf if t.rank % 2 else -np.inf
    x.view(np.uint32)[::3] = 0x7FC0_0001 + (t.rank << 8) + ((t.rank % 2) << 31)
    with made(case, t) as collective, np.errstate(all="ignore"):
        result = summed(collective, x)
        assert agree(t, result)
        assert np.isnan(result[::3]).all()


def law_unusable_buffers_are_refused(t: Transport, case: Case) -> None:
    """Before anything is sent: other numbers than float32, and what is not contiguous."""
    with made(case, t) as collective:
        refused = [torch.zeros(4, 4)[:, 1]]
        if case.make is not DenseAllreduce:
            refused += [torch.zeros(3, dtype=d) for d in (torch.float64, torch.bfloat16, torch.int32)]
        for buffer in refused:
            for call in (collective.allreduce, collective.start):
                with pytest.raises(TransportError, match="cannot exchange"):
                    call(buffer)


LAWS = [
    pytest.param(law, id=name.removeprefix("law_"))
    for name, law in list(globals().items())
    if name.startswith("law_")
]
"""All laws as pytest parameters."""
