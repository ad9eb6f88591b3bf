"""Dense rounds before compressed ones, on ranks that are threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hpc_fl.collectives.dense import dense_bytes
from hpc_fl.collectives.front_door import reduction
from hpc_fl.collectives.shards import sharded_bytes
from hpc_fl.collectives.warmup import DenseFirst
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import OneBit
from hpc_fl.errors import CodecError
from hpc_fl.telemetry.ledger import Ledger

N, ROUNDS = 200, 3
CODEC = OneBit(block=64)


def warm_up(transport: Transport, ledger: Ledger | None = None, rounds: int = ROUNDS) -> DenseFirst:
    ledger = ledger or Ledger()
    dense = reduction(transport, ledger=ledger)
    return DenseFirst(dense, reduction(transport, CODEC, ledger=ledger), rounds)


def update(rank: int, round_: int) -> Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(10 * round_ + rank))


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_first_rounds_are_dense_and_the_others_the_compressed_reductions(
    size: int, started: bool
) -> None:
    def work(transport: InProcessTransport) -> None:
        ledger = Ledger()
        both, alone = warm_up(transport, ledger), reduction(transport, CODEC)
        for number in range(7):
            x = update(transport.rank, number)
            expected = x.clone()
            reduced = both.start(x).wait() if started else both.allreduce(x)
            assert reduced.weight == size
            sent = ledger.take().get("allreduce", 0)
            if number < ROUNDS:
                mean = torch.stack([update(rank, number) for rank in range(size)]).mean(0)
                torch.testing.assert_close(x, mean)
                assert sent == dense_bytes(N, size)
            else:
                alone.allreduce(expected, round_=number)
                assert x.equal(expected)
                assert sent == sharded_bytes(CODEC, N, size, transport.rank)
        both.close()

    run_ranks(size, work)


def test_the_number_of_the_call_decides_and_state_goes_on() -> None:
    def work(transport: InProcessTransport) -> None:
        one, two = warm_up(transport), warm_up(transport)
        for number in (0, 5, 6):
            one.allreduce(update(transport.rank, number), round_=number)
        assert set(one.state()) == {"residual", "server", "place"}
        two.restore({name: kept.clone() for name, kept in one.state().items()})
        for number in (2, 7, 8):
            x, y = update(transport.rank, number), update(transport.rank, number)
            one.allreduce(x, 2.0, number)
            two.allreduce(y, 2.0, number)
            assert x.equal(y)

    run_ranks(3, work)


def test_no_warm_up_is_the_compressed_reduction_alone() -> None:
    one = warm_up(solo(), rounds=0)
    assert one.name == one.at(0).name == "sharded"


def test_a_negative_number_of_rounds_is_refused() -> None:
    with pytest.raises(CodecError, match="warm-up: rounds = -1 given; 0 or more expected"):
        warm_up(solo(), rounds=-1)
