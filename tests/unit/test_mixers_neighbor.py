"""The laws of neighbour collectives over threads."""

from collections.abc import Callable

import pytest
from laws import neighbor_laws

from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("law", neighbor_laws.LAWS)
def test_law(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)
