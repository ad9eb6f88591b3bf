"""The transport laws on the ranks at hand, and what is MPI's own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws.transport_laws import LAWS
from mpi4py import MPI

from hpc_fl.comm.buffers import is_tensor
from hpc_fl.comm.mpi import MpiTransport
from hpc_fl.comm.runtime import guard, set_threads
from hpc_fl.comm.staging import StagedTransport
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout

Law = Callable[[Transport], None]


@pytest.mark.parametrize("law", LAWS)
def test_law(law: Law, transport: Transport) -> None:
    law(transport)


@pytest.mark.parametrize("law", LAWS)
def test_law_over_mpi_with_a_time_limit(law: Law) -> None:
    """With a limit every call goes through its nonblocking form."""
    transport = MpiTransport(MPI.COMM_WORLD, timeout=100.0)
    law(transport)
    transport.close()


@pytest.mark.parametrize("law", LAWS)
def test_law_with_staged_tensors(law: Law, transport: Transport) -> None:
    """CPU tensors stand in for device tensors."""
    law(StagedTransport(transport, is_device=is_tensor, pin=False))


def test_large_buffers_are_cut() -> None:
    """Reductions and broadcasts of more elements than MPI counts; other calls are refused."""
    transport = MpiTransport(MPI.COMM_WORLD, max_elements=3)
    for buf in (np.arange(10.0).reshape(2, 5), torch.arange(10.0)):
        transport.allreduce(buf)
        transport.iallreduce(buf).wait()
        assert buf.reshape(-1).tolist() == [i * transport.size**2 for i in range(10)]
        if transport.rank > 0:
            buf[...] = 0
        transport.broadcast(buf)
        assert buf.reshape(-1).tolist() == [i * transport.size**2 for i in range(10)]
        with pytest.raises(TransportError, match="cut it"):
            transport.send(buf, 0)
    transport.close()


def test_a_blocking_call_gives_up_in_time() -> None:
    """Nobody sends: the receive raises, names its peer, and the message may still come later."""
    transport = MpiTransport(MPI.COMM_WORLD, timeout=0.05)
    peer = (transport.rank + 1) % transport.size
    with pytest.raises(TransportTimeout, match=f"receive from rank {peer}"):
        transport.recv(np.zeros(1), peer)
    MPI.COMM_WORLD.Barrier()
    transport.isend(np.zeros(1), (transport.rank - 1) % transport.size).wait(60.0)
    MPI.COMM_WORLD.Barrier()
    transport.close()


def test_messages_that_do_not_fit_are_errors(transport: Transport) -> None:
    """MPI's own error arrives as TransportError, and the transport can be used again."""
    request = transport.isend(np.zeros(3), transport.rank)
    with pytest.raises(TransportError):
        transport.recv(np.zeros(1), transport.rank)
    request.wait()
    total = np.ones(1)
    transport.allreduce(total)
    assert total[0] == transport.size


def test_ranks_that_leave_with_one_code_leave_in_peace(transport: Transport) -> None:
    with pytest.raises(SystemExit) as left, guard(transport):
        raise SystemExit(75)
    assert left.value.code == 75


def test_threads_are_shared_out(transport: Transport) -> None:
    """All ranks' threads together do not exceed the cores, unless there are more ranks than cores."""
    before = torch.get_num_threads()
    share = set_threads(transport, None)
    assert torch.get_num_threads() == share >= 1
    assert set_threads(transport, 3) == torch.get_num_threads() == 3
    torch.set_num_threads(before)
