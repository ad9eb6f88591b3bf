"""Tests for any number of ranks under Horovod; tests/system/test_horovod.py runs them under mpirun."""

import sys
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec

import pytest
from mpi4py import MPI

from hpc_fl.comm.horovod import HorovodTransport
from hpc_fl.comm.runtime import launched, start
from hpc_fl.comm.transport import Transport


@pytest.fixture(scope="session")
def world(need: Callable[[object, str], None]) -> Iterator[HorovodTransport]:
    """All ranks under Horovod; one for the session."""
    need(find_spec("horovod"), "Horovod (bash scripts/install_horovod.sh)")
    transport = start(MPI.COMM_WORLD, transport="horovod")
    assert isinstance(transport, HorovodTransport)
    yield transport
    transport.close()


@pytest.fixture
def transport(world: HorovodTransport) -> Iterator[Transport]:
    """A duplicate of the world for one test, so that what a test leaves behind meets no other."""
    duplicate = world.dup()
    yield duplicate
    duplicate.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With several ranks, end the job at the first failure: the other ranks wait in a collective."""
    report = yield
    launch = launched()
    if report.failed and launch is not None and launch.size > 1:
        text = f"rank {launch.rank}: {item.nodeid} failed ({report.when})\n{report.longreprtext}\n"
        item.config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
        print(text, file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)
    return report
