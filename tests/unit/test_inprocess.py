"""The transport laws over threads, and what happens when a thread fails."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws.transport_laws import LAWS

from hpc_fl.comm.buffers import is_tensor
from hpc_fl.comm.hub import Hub
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks, solo
from hpc_fl.comm.staging import StagedTransport
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout

Law = Callable[[Transport], None]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("law", LAWS)
def test_law(law: Law, size: int) -> None:
    run_ranks(size, law)


@pytest.mark.parametrize("law", LAWS)
def test_law_alone(law: Law) -> None:
    law(solo())


@pytest.mark.parametrize("law", LAWS)
def test_law_with_staged_tensors(law: Law) -> None:
    """CPU tensors stand in for device tensors."""
    run_ranks(3, lambda t: law(StagedTransport(t, is_device=is_tensor, pin=False)))


def test_results_come_by_rank() -> None:
    assert run_ranks(4, lambda t: (t.rank, t.size)) == [(rank, 4) for rank in range(4)]


def test_the_first_exception_is_raised_and_frees_the_others() -> None:
    freed: list[str] = []

    def fail(t: Transport) -> None:
        if t.rank == 1:
            raise ValueError("rank one is at fault")
        try:
            t.barrier()
        except TransportError as error:
            freed.append(str(error))
            raise

    began = time.monotonic()
    with pytest.raises(ValueError, match="rank one is at fault"):
        run_ranks(3, fail)
    assert time.monotonic() - began < 30
    assert len(freed) == 2
    assert all("rank 1 failed" in text for text in freed)


def test_a_failure_frees_groups_split_off_earlier() -> None:
    def fail(t: Transport) -> None:
        group = t.split(0)
        if t.rank == 0:
            raise KeyError("lost")
        group.recv(np.zeros(1), 0)

    with pytest.raises(KeyError, match="lost"):
        run_ranks(2, fail)


def test_a_missing_rank_is_named_when_the_time_is_over() -> None:
    def leave(t: Transport) -> None:
        if t.rank != 1:
            t.allreduce(np.zeros(1))

    with pytest.raises(TransportTimeout, match=r"allreduce.*rank 1 within"):
        run_ranks(3, leave, timeout=0.2)


def test_a_rank_that_never_ends_is_named() -> None:
    end = threading.Event()
    with pytest.raises(TransportTimeout, match="rank 1 still at work"):
        run_ranks(2, lambda t: t.rank == 1 and end.wait(), timeout=0.1)
    end.set()


def test_different_collectives_are_told_apart() -> None:
    def disagree(t: Transport) -> None:
        if t.rank == 0:
            t.barrier()
        else:
            t.broadcast(np.zeros(2))

    with pytest.raises(TransportError, match="different collectives"):
        run_ranks(2, disagree)


def test_abort_ends_all_with_its_code() -> None:
    def abort(t: Transport) -> None:
        if t.rank == 1:
            t.abort(3)
        t.barrier()

    with pytest.raises(SystemExit) as left:
        run_ranks(3, abort)
    assert left.value.code == 3


def test_messages_are_copies() -> None:
    """A sender may change its buffer as soon as `send` returned."""

    def check(t: Transport) -> None:
        buf = torch.ones(2)
        if t.rank == 0:
            t.send(buf, 1)
            buf.zero_()
            t.barrier()
        else:
            t.barrier()
            t.recv(buf.zero_(), 0)
            assert buf.tolist() == [1.0, 1.0]

    run_ranks(2, check)


def test_nothing_is_left_in_the_hub() -> None:
    """Parcels are cleared away once everyone has them, so that long runs do not grow."""

    def work(t: InProcessTransport) -> Hub:
        for _ in range(5):
            t.allreduce(np.zeros(10))
            t.isend(np.zeros(3), (t.rank + 1) % t.size)
            t.recv(np.zeros(3), (t.rank - 1) % t.size)
        t.barrier()
        return t._hub

    hub, *_ = run_ranks(3, work)
    assert not hub.parcels
    assert not hub.taken
