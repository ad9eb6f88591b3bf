"""What every compressed reduction must do, for any number of ranks. Every rank calls each law with its
transport and a case.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_fl.collectives import (
    Compressed,
    Linear,
    LowRankMean,
    Reduced,
    Sharded,
    Summed,
    Vote,
    sharded_bytes,
)
from hpc_fl.collectives.memory import RESIDUAL
from hpc_fl.comm.transport import Buffer, Request, Transport
from hpc_fl.compression import (
    BF16,
    FP16,
    QSGD,
    Chain,
    Identity,
    LowRank,
    OneBit,
    RandomK,
    SignSGD,
    Ternary,
    TopK,
)
from hpc_fl.compression.base import Base
from hpc_fl.errors import TransportError, WireError
from hpc_fl.telemetry import Ledger

N: Final = 1003
SHAPES: Final = ((20, 30), (13,), (10, 5, 6), (90,))
SIZES: Final = (0, 1, 7, 8, 9, 31, 33, 100)


@dataclass(frozen=True)
class Case:
    """``exact``: the result is the weighted mean to so much of the largest value, without feedback."""

    carrier: type[Compressed]
    codec: Base
    feedback: bool
    exact: float | None = None

    def make(self, transport: Transport, *, mean: bool = True, ledger: Ledger | None = None) -> Compressed:
        return self.carrier(transport, ledger or Ledger(), self.codec, feedback=self.feedback, mean=mean)


CASES: Final[dict[str, Case]] = {
    "dense": Case(Summed, Identity(), False, 1e-6),
    "fp16": Case(Summed, FP16(), False, 2e-2),
    "bf16": Case(Summed, BF16(), False, 1e-1),
    "randomk": Case(Linear, RandomK(ratio=0.1), True),
    "onebit": Case(Sharded, OneBit(), True),
    "onebit by block": Case(Sharded, OneBit(block=16), True),
    "onebit without feedback": Case(Sharded, OneBit(), False),
    "8 bits": Case(Sharded, QSGD(width=8, block=64), False, 5e-2),
    "4 bits, feedback": Case(Sharded, QSGD(), True),
    "ternary": Case(Sharded, Ternary(ratio=0.1), True),
    "chain": Case(Sharded, Chain(TopK(ratio=0.1), QSGD()), True),
    "vote": Case(Vote, SignSGD(0.5), False),
    "lowrank": Case(LowRankMean, LowRank(2, SHAPES), True),
    "lowrank without feedback": Case(LowRankMean, LowRank(2, SHAPES), False),
}


def buffer(rank: int, round_: int = 0, n: int = N) -> torch.Tensor:
    """What a rank brings in a round."""
    return torch.randn(n, generator=torch.Generator().manual_seed(1000 * round_ + rank))


def same_everywhere(transport: Transport, x: torch.Tensor) -> None:
    sums = np.zeros(transport.size, np.int64)
    transport.allgather(np.array([zlib.crc32(x.numpy().tobytes())], np.int64), sums)
    assert len(set(sums.tolist())) == 1


def everyones(transport: Transport, x: torch.Tensor) -> NDArray[np.float64]:
    """The sum over the ranks in float64."""
    total = x.double().numpy().copy()
    transport.allreduce(total)
    return total


def kept(transport: Transport, reduction: Compressed) -> NDArray[np.float64]:
    """All that all ranks keep back of a weighted sum, in its units."""
    state = reduction.state()
    mine = torch.zeros(N) if RESIDUAL not in state else state[RESIDUAL].clone()
    if "server" in state:
        start = int(state["place"][0])
        mine[start : start + len(state["server"])] += state["server"]
    return everyones(transport, mine)


def law_all_ranks_hold_the_same_bits(transport: Transport, case: Case) -> None:
    reduction = case.make(transport)
    for round_ in range(3):
        x = buffer(transport.rank, round_)
        reduced = reduction.allreduce(x, 1.0 + transport.rank)
        assert reduced == Reduced(sum(1.0 + rank for rank in range(transport.size)), ())
        assert x.isfinite().all()
        same_everywhere(transport, x)


def law_what_is_sent_and_kept_is_what_was_given(transport: Transport, case: Case) -> None:
    if not case.feedback:
        return
    reduction = case.make(transport, mean=False)
    given, arrived = np.zeros(N), np.zeros(N)
    for round_ in range(5):
        x = buffer(transport.rank, round_)
        given += everyones(transport, x)
        reduction.allreduce(x)
        arrived += x.double().numpy()
    np.testing.assert_allclose(arrived + kept(transport, reduction), given, atol=2e-4)


def law_exact_ones_give_the_weighted_mean(transport: Transport, case: Case) -> None:
    if case.exact is None:
        return
    weights = [0.5 + (rank % 3) for rank in range(transport.size)]
    wanted = sum(w * buffer(rank).double() for rank, w in enumerate(weights)) / sum(weights)
    x = buffer(transport.rank)
    case.make(transport).allreduce(x, weights[transport.rank])
    torch.testing.assert_close(x.double(), wanted, rtol=0, atol=4 * case.exact)


def law_a_rank_without_weight_changes_nothing(transport: Transport, case: Case) -> None:
    last = transport.size - 1
    if last == 0 or transport.rank > last:
        return
    reduction = case.make(transport)
    weight = 0.0 if transport.rank == last else 1.0
    x = buffer(transport.rank) if transport.rank < last else torch.full((N,), float("nan"))
    reduced = reduction.allreduce(x, weight)
    assert reduced == Reduced(float(last), ())
    assert x.isfinite().all()
    same_everywhere(transport, x)


def law_a_rank_that_is_not_finite_is_left_out(transport: Transport, case: Case) -> None:
    reduction = case.make(transport)
    spoilt = transport.size - 1
    reduction.allreduce(buffer(transport.rank))
    before = {name: one.clone() for name, one in reduction.state().items() if name == RESIDUAL}
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in (0, N // 2, N - 1):
            x = buffer(transport.rank, 1)
            if transport.rank == spoilt:
                x[place] = bad
            reduced = reduction.allreduce(x, 2.0)
            assert reduced == Reduced(2.0 * (transport.size - 1), (spoilt,))
            assert x.isfinite().all()
            same_everywhere(transport, x)
    if transport.rank == spoilt:
        after = reduction.state()
        assert all(torch.equal(one, after[name]) for name, one in before.items())
    if case.exact is not None and transport.size > 1:
        wanted = sum(buffer(rank, 1).double() for rank in range(transport.size - 1)) / (transport.size - 1)
        torch.testing.assert_close(x.double(), wanted, rtol=0, atol=4 * case.exact)
    assert reduction.allreduce(buffer(transport.rank, 2)).left_out == ()


def law_any_length_will_do(transport: Transport, case: Case) -> None:
    if isinstance(case.codec, LowRank):
        return
    for n in (*SIZES, transport.size - 1, transport.size, transport.size + 1):
        x = buffer(transport.rank, 0, n)
        wanted = sum(buffer(rank, 0, n).double() for rank in range(transport.size)) / transport.size
        case.make(transport).allreduce(x)
        same_everywhere(transport, x)
        if case.exact is not None:
            torch.testing.assert_close(x.double(), wanted, rtol=0, atol=4 * case.exact)


def law_started_ones_end_in_order_with_the_same_bits(transport: Transport, case: Case) -> None:
    waiting, starting = case.make(transport), case.make(transport)
    other = case.make(transport)
    one, two, three = (buffer(transport.rank, round_) for round_ in (0, 1, 2))
    handles = [starting.start(one), other.start(three), starting.start(two)]
    plain = [buffer(transport.rank, round_) for round_ in (0, 1)]
    for x in plain:
        waiting.allreduce(x)
    for handle in reversed(handles):
        assert handle.wait(60).left_out == ()
    assert torch.equal(one, plain[0])
    assert torch.equal(two, plain[1])
    for reduction in (waiting, starting, other):
        reduction.close()


class Counting:
    """A transport that counts what is given to ``isend``, and may change it."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner
        self.sent = 0
        self.alter: tuple[int, int] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def dup(self) -> "Counting":
        return self

    def isend(self, buf: Buffer, dest: int, tag: int = 0) -> Request:
        data = np.array(buf).view(np.uint8)
        self.sent += data.nbytes
        if self.alter is not None and dest == self.alter[0] and data.size:
            data[self.alter[1] % data.size] ^= 1
            self.alter = None
        return self._inner.isend(data, dest, tag)


def law_the_ledger_has_what_was_sent(transport: Transport, case: Case) -> None:
    if not issubclass(case.carrier, Sharded):
        return
    ledger, counting = Ledger(), Counting(transport)
    reduction = case.make(counting, ledger=ledger)
    for round_ in range(2):
        reduction.allreduce(buffer(transport.rank, round_))
        sent = ledger.take()
        agreed = (transport.size - 1) * (16 + 1) if transport.size > 1 else 0
        if transport.size > 1:
            assert sent["allreduce"] + sent["headers"] - agreed == counting.sent
        formula = sharded_bytes(case.codec, N, transport.size, transport.rank)
        if isinstance(case.codec, OneBit | QSGD | SignSGD):
            assert sent.get("allreduce", 0) == formula
        assert sent.get("allreduce", 0) <= formula
        counting.sent = 0


def law_a_changed_message_names_its_sender(transport: Transport, case: Case) -> None:
    """Rank 0 sends rank 1 a message with one bit turned; ranks must be threads, as they part ways here."""
    if transport.size < 2 or not issubclass(case.carrier, Sharded):
        return
    counting = Counting(transport)
    if transport.rank == 0:
        counting.alter = (1, 12345)
    reduction = case.make(counting)
    if transport.rank == 1:
        with pytest.raises(WireError, match="message of rank 0: "):
            reduction.allreduce(buffer(transport.rank))
        raise WireError("as expected")
    with pytest.raises(TransportError):  # the others hear, at the latest next time, that rank 1 failed
        [reduction.allreduce(buffer(transport.rank)) for _ in range(2)]
    raise WireError("as expected")


def law_it_goes_on_from_what_it_kept(transport: Transport, case: Case) -> None:
    def rounds(reduction: Compressed, numbers: Sequence[int]) -> list[torch.Tensor]:
        results = [buffer(transport.rank, number) for number in numbers]
        for number, x in zip(numbers, results, strict=True):
            reduction.allreduce(x, round_=number)
        return results

    first = case.make(transport)
    rounds(first, range(3))
    saved = {name: one.clone() for name, one in first.state().items()}
    second = case.make(transport)
    second.restore(saved)
    for one, other in zip(rounds(first, (3, 4)), rounds(second, (3, 4)), strict=True):
        assert torch.equal(one, other)


def law_it_goes_on_in_a_smaller_world(transport: Transport, case: Case) -> None:
    """What all ranks kept is taken over by half of them, and arrives there or is kept on."""
    if not case.feedback:
        return
    reduction = case.make(transport, mean=False)
    given, arrived = np.zeros(N), np.zeros(N)
    for round_ in range(2):
        x = buffer(transport.rank, round_)
        given += everyones(transport, x)
        reduction.allreduce(x)
        arrived += x.double().numpy()
    states = _gathered(transport, reduction)
    half = -(-transport.size // 2)
    small = transport.split(int(transport.rank >= half), transport.rank)
    if transport.rank >= half:
        return
    smaller = case.make(small, mean=False)
    smaller.restore(*[states[rank] for rank in range(transport.rank, transport.size, half)])
    for round_ in range(2, 4):
        x = buffer(transport.rank, round_)
        given += everyones(small, x)
        smaller.allreduce(x)
        arrived += x.double().numpy()
    np.testing.assert_allclose(arrived + kept(small, smaller), given, atol=2e-4)


def _gathered(transport: Transport, reduction: Compressed) -> list[dict[str, torch.Tensor]]:
    """All ranks' states, on every rank."""
    state = reduction.state()
    found: list[dict[str, torch.Tensor]] = [{} for _ in range(transport.size)]
    for name in sorted({"residual", "server", "place", "factors"}):
        mine = state.get(name, torch.empty(0))
        lengths = np.zeros(transport.size, np.int64)
        transport.allgather(np.array([mine.numel()], np.int64), lengths)
        everything = np.empty(int(lengths.sum()), np.float64)
        transport.allgatherv(mine.double().numpy(), everything, lengths.tolist())
        for rank, part in enumerate(np.split(everything, np.cumsum(lengths)[:-1])):
            if part.size:
                found[rank][name] = torch.from_numpy(part).to(
                    torch.int64 if name == "place" else torch.float32
                )
    return [one if "residual" in one else {} for one in found]


def law_different_calls_are_refused_on_all_ranks(transport: Transport, case: Case) -> None:
    if transport.size == 1:
        return
    last = transport.size - 1
    mine = transport.rank == last
    other = QSGD(width=3) if not isinstance(case.codec, QSGD) else QSGD(width=3, block=8)
    wrong = Case(case.carrier, other if mine else case.codec, case.feedback)
    if not issubclass(case.carrier, LowRankMean):  # which takes its own codec only
        with pytest.raises(TransportError, match=rf"codec: .* on rank 0.*QSGD.* on rank {last}"):
            wrong.make(transport).allreduce(buffer(transport.rank))
    reduction = case.make(transport)
    with pytest.raises(TransportError, match=rf"shape: \(1003,\) on rank 0.*; \(1004,\) on rank {last}"):
        reduction.allreduce(torch.zeros(N + mine))
    with pytest.raises(TransportError, match=r"dtype: float32 on rank 0.*; float64"):
        reduction.allreduce(torch.zeros(N, dtype=torch.float64 if mine else torch.float32))
    with pytest.raises(TransportError, match=r"round: 7 on rank 0.*; 8 on rank"):
        reduction.allreduce(torch.zeros(N), round_=7 + mine)
    reduction.allreduce(buffer(transport.rank), round_=9)


PARTING: Final = (law_a_changed_message_names_its_sender,)
"""Laws whose ranks do not all end well: for threads only."""
LAWS: Final = [
    value for name, value in list(globals().items()) if name.startswith("law_") and value not in PARTING
]
