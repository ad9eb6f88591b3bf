"""Tests for any number of ranks: `python -m pytest tests/parallel`, or the same under mpirun."""

import sys
from collections.abc import Generator, Iterator

import pytest

from hpc_fl.comm.runtime import launched, start
from hpc_fl.comm.transport import Transport

Report = pytest.TestReport
_worlds: list[Transport] = []


@pytest.fixture(scope="session")
def world() -> Transport:
    """The transport of all ranks; one for the session."""
    if not _worlds:
        _worlds.append(start())
    return _worlds[0]


@pytest.fixture
def transport(world: Transport) -> Iterator[Transport]:
    """A duplicate of the world for one test, so that what a test leaves behind meets no other."""
    duplicate = world.dup()
    yield duplicate
    duplicate.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Report, Report]:
    """With several ranks, end the job at the first failure: the other ranks wait in a collective."""
    report = yield
    launch = launched()
    if report.failed and launch is not None and launch.size > 1:
        text = f"rank {launch.rank}: {item.nodeid} failed ({report.when})\n{report.longreprtext}\n"
        capture = item.config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture(in_=True)
        print(text, file=sys.stderr, flush=True)
        (_worlds[0] if _worlds else start()).abort(1)
    return report
