"""The laws of compressed reductions over threads, and what only one of them has."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import reduction_laws
from laws.reduction_laws import CASES, Case, buffer

from hpc_fl import collectives
from hpc_fl.collectives import Sharded, Vote, sharded_bytes
from hpc_fl.collectives.shards import Shards
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, OneBit, RandomK, SignSGD, TopK
from hpc_fl.compression.base import Base
from hpc_fl.errors import CodecError, TransportTimeout, WireError
from hpc_fl.telemetry import Ledger

Law = Callable[[Transport, Case], None]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])  # 4: under mpirun, tests/system/test_mpirun.py
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("law", reduction_laws.LAWS)
def test_law(law: Law, case: Case, size: int) -> None:
    run_ranks(size, lambda transport: law(transport, case))


SENDERS = {name: case for name, case in CASES.items() if issubclass(case.carrier, Sharded)}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", SENDERS.values(), ids=SENDERS)
@pytest.mark.parametrize("law", reduction_laws.PARTING)
def test_law_that_parts_the_ranks(law: Law, case: Case, size: int) -> None:
    with pytest.raises(WireError, match="as expected"):
        run_ranks(size, lambda transport: law(transport, case))


@given(n=st.integers(0, 10**6), ranks=st.integers(1, 600))
def test_shards_cover_the_buffer_once(n: int, ranks: int) -> None:
    shards = Shards.cut(n, ranks)
    pieces = [piece for of in shards.of for piece in of]
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])][: len(pieces)]
    assert (pieces[-1].stop if pieces else 0) == n
    assert all(len(piece) > 0 and piece.start % 8 == 0 for piece in pieces)
    assert max(map(shards.length, range(ranks))) <= -(-n // (8 * ranks)) * 8
    assert sorted((o, p.start) for o, p in shards.turns(ranks // 2)) == [
        (owner, piece.start) for owner, of in enumerate(shards.of) for piece in of
    ]


@given(n=st.integers(0, 10**9), ranks=st.integers(1, 64), rank=st.integers(0, 63))
def test_one_bit_sends_no_more_than_the_formula(n: int, ranks: int, rank: int) -> None:
    pieces = max(map(len, Shards.cut(n, ranks).of))
    bound = 2 * (ranks - 1) * (-(-n // (8 * ranks)) + 4 * pieces)
    assert sharded_bytes(OneBit(), n, ranks, rank % ranks) <= bound


def test_a_majority_wins_and_a_tie_is_positive() -> None:
    def vote(transport: Transport) -> torch.Tensor:
        signs = torch.tensor([[1.0, 1, -1, -1], [1.0, -1, -1, -1], [1, 1, 1, -1], [1, -1, -1, -1]])
        x = signs[transport.rank].clone()
        Vote(transport, Ledger(), SignSGD(0.25), feedback=False).allreduce(x)
        return x

    for x in run_ranks(4, vote):
        assert x.tolist() == [0.25, 0.25, -0.25, -0.25]


def test_the_front_door_takes_any_buffer() -> None:
    def mean(transport: Transport) -> None:
        array = np.full(10, float(transport.rank), np.float32)
        reduced = collectives.allreduce(array, transport, weight=1.0 + transport.rank)
        assert (reduced.weight, reduced.left_out) == (6.0, ())
        np.testing.assert_allclose(array, (0 * 1 + 1 * 2 + 2 * 3) / 6)
        ledger, x = Ledger(), torch.ones(1000) * (1 + transport.rank)
        collectives.allreduce(x, transport, OneBit(), ledger=ledger)
        torch.testing.assert_close(x, torch.full((1000,), 2.0))
        assert ledger.take()["allreduce"] == sharded_bytes(OneBit(), 1000, 3, transport.rank)

    run_ranks(3, mean)


@pytest.mark.parametrize("codec", [None, BF16(), OneBit(), TopK(ratio=0.1), RandomK(ratio=0.1)])
def test_one_call_leaves_no_transport_behind(codec: Base | None, monkeypatch: pytest.MonkeyPatch) -> None:
    split, close = InProcessTransport.split, InProcessTransport.close
    opened: list[object] = []

    def counted(self: InProcessTransport, color: int, key: int = 0) -> InProcessTransport:
        opened.append(made := split(self, color, key))
        return made

    def closed(self: InProcessTransport) -> None:
        opened[:] = [one for one in opened if one is not self]
        close(self)

    monkeypatch.setattr(InProcessTransport, "split", counted)
    monkeypatch.setattr(InProcessTransport, "close", closed)
    run_ranks(2, lambda transport: collectives.allreduce(torch.ones(1000), transport, codec))
    assert not opened
    run_ranks(2, lambda transport: collectives.reduction(transport, codec).allreduce(torch.ones(1000)))
    assert opened  # what it looks for can be found


def test_pairings_that_cannot_work_are_refused() -> None:
    with pytest.raises(CodecError, match="collective vote cannot carry onebit"):
        collectives.reduction(solo(), OneBit(), collective=Vote)
    with pytest.raises(CodecError, match="collective sharded cannot carry onebit"):
        collectives.reduction(solo(), OneBit(segments=(3, 4)), collective=Sharded)
    with pytest.raises(CodecError, match="collective sharded cannot carry topk"):
        collectives.reduction(solo(), TopK(k=3), collective=Sharded)


def test_an_object_is_for_one_buffer() -> None:
    reduction = collectives.reduction(solo(), OneBit())
    reduction.allreduce(torch.ones(5))
    with pytest.raises(CodecError, match="one collective object for each buffer"):
        reduction.allreduce(torch.ones(6))


def test_a_weight_that_is_no_weight_is_refused_everywhere() -> None:
    def call(transport: Transport) -> None:
        with pytest.raises(CodecError, match="weights of the ranks"):
            collectives.allreduce(torch.ones(4), transport, weight=1.0 if transport.rank else -1.0)

    run_ranks(2, call)


def test_a_wait_names_who_is_missing() -> None:
    def call(transport: Transport) -> None:
        if transport.rank == 1:
            time.sleep(1.5)
        collectives.allreduce(torch.ones(4), transport)

    with pytest.raises(TransportTimeout, match=r"nothing from rank 1 within 0\.5 s"):
        run_ranks(3, call, timeout=0.5)


def test_a_handle_that_is_waited_for_too_shortly_can_be_waited_for_again() -> None:
    def call(transport: Transport) -> None:
        x, reduction = buffer(transport.rank), collectives.reduction(transport, OneBit())
        if transport.rank:
            time.sleep(0.5)
        handle = reduction.start(x)
        if not transport.rank:
            with pytest.raises(TransportTimeout, match=r"not complete within 0\.01 s"):
                handle.wait(0.01)
        assert handle.wait(30).left_out == ()
        assert handle.done()

    run_ranks(2, call)
