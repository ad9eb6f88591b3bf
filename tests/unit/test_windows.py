"""The laws of one-sided windows over threads."""

from collections.abc import Callable

import pytest
from laws import window_laws

from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.staging import StagedTransport
from hpc_fl.comm.transport import Transport

SIZES_OF_WORLDS = [1, 2, 3, 4, 5, 8]


@pytest.mark.parametrize("size", SIZES_OF_WORLDS)
@pytest.mark.parametrize("law", window_laws.LAWS)
def test_law(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)


def test_staged_transports_have_windows() -> None:
    run_ranks(3, lambda t: window_laws.law_no_mass_is_lost(StagedTransport(t)))
