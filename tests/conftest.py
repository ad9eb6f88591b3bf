"""Shared by all tests. Being here puts this folder on sys.path, so that tests import `laws.*`."""

import os
from collections.abc import Callable

import pytest

from hpc_fl.comm.launch import find_mpirun
from hpc_fl.errors import ConfigError


@pytest.fixture(scope="session")
def need() -> Callable[[object, str], None]:
    """`need(condition, what)` skips for want of `what`; with HPC_FL_REQUIRE=all it fails the test instead."""

    def check(condition: object, what: str) -> None:
        if condition:
            return
        if os.environ.get("HPC_FL_REQUIRE") == "all":
            pytest.fail(f"needs {what}, and HPC_FL_REQUIRE=all is set")
        pytest.skip(f"needs {what}")

    return check


@pytest.fixture(scope="session")
def mpi(need: Callable[[object, str], None]) -> None:
    """For tests that start ranks: needs an mpirun."""
    try:
        find_mpirun()
    except ConfigError as error:
        need(False, str(error))
