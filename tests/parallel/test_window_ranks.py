"""The laws of one-sided windows on the ranks at hand."""

import os
from collections.abc import Callable

import pytest
from laws import window_laws
from mpi4py import MPI

from hpc_fl.comm import mpi_window
from hpc_fl.comm.mpi import MpiTransport
from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", window_laws.LAWS)
def test_law(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)


@pytest.mark.parametrize("law", window_laws.LAWS)
def test_law_as_if_on_many_machines(
    law: Callable[[Transport], None], transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers announce themselves."""
    monkeypatch.setattr(mpi_window, "_same_machine", lambda comm: frozenset([comm.Get_rank()]))
    law(transport)


def test_law_over_mpi_with_a_time_limit() -> None:
    """Also with one rank that no launcher started."""
    os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    transport = MpiTransport(MPI.COMM_WORLD, timeout=100.0)
    window_laws.law_no_mass_is_lost(transport)
    transport.close()
