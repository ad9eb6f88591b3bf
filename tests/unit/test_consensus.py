"""The laws of evaluating own models over threads."""

from collections.abc import Callable

import pytest
from laws import consensus_laws

from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("case", consensus_laws.CASES.values(), ids=consensus_laws.CASES)
@pytest.mark.parametrize("law", consensus_laws.LAWS)
def test_law(
    law: Callable[[Transport, consensus_laws.Case], None], case: consensus_laws.Case, size: int
) -> None:
    run_ranks(size, lambda transport: law(transport, case))
