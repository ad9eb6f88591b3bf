"""The laws of pairwise averaging over threads; transports that cannot do it; a thread that fails."""

import threading
from collections.abc import Callable

import pytest
import torch
from laws import pairwise_laws

from hpc_fl.collectives import PairwiseAverager
from hpc_fl.collectives.pairwise_service import ASK, DONE, HEADER, VALUES, Service
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError
from hpc_fl.telemetry.ledger import Ledger

SIZES_OF_WORLDS = [1, 2, 3, 4, 5, 8]


@pytest.mark.parametrize("size", SIZES_OF_WORLDS)
@pytest.mark.parametrize("law", pairwise_laws.LAWS)
def test_law(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)


@pytest.mark.parametrize("size", SIZES_OF_WORLDS[1:])
@pytest.mark.parametrize("graph", pairwise_laws.GRAPHS)
def test_many_exchanges(graph: str, size: int) -> None:
    run_ranks(size, lambda t: pairwise_laws.law_many_exchanges_and_no_deadlock(t, graph))


def test_silence_is_a_timeout() -> None:
    run_ranks(2, pairwise_laws.law_silence_is_a_timeout)


def test_two_requests_that_cross_make_one_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is answered before both have set off and both ranks know what they answer."""
    both = threading.Barrier(2)
    meet = Service._meet_half_way

    def together(service: Service, theirs: torch.Tensor) -> bool:
        both.wait(30.0)
        met = meet(service, theirs)
        both.wait(30.0)
        return met

    monkeypatch.setattr(Service, "_meet_half_way", together)

    def law(transport: Transport) -> None:
        x = torch.tensor([4.0, 8.0]) * transport.rank
        averager = PairwiseAverager(transport, Ledger(), x, timeout=60.0)
        averager.average_with(1 - transport.rank)
        averager.close(60.0)
        assert x.tolist() == [2.0, 4.0]

    run_ranks(2, law)


def test_needs_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InProcessTransport, "concurrent", False)

    def law(transport: Transport) -> None:
        with pytest.raises(TransportError, match="MPI_THREAD_MULTIPLE"):
            PairwiseAverager(transport, Ledger(), torch.zeros(1))

    run_ranks(2, law)


def test_a_service_that_failed_is_told_of() -> None:
    """Here: of a message that is larger than the buffers."""

    def law(transport: Transport) -> None:
        averager = PairwiseAverager(transport, Ledger(), torch.zeros(1), timeout=10.0)
        if transport.rank == 1:
            averager._transport.send(ASK, 0, HEADER)
            averager._transport.send(torch.zeros(5), 0, VALUES)
            averager.close(10.0)
        else:
            averager._service._thread.join()
            with pytest.raises(TransportError, match=r"service thread failed: .* 20 bytes"):
                averager.average_with(1)
            averager._transport.send(DONE, 1, HEADER)

    run_ranks(2, law)
