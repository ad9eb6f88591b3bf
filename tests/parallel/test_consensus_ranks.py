"""The laws of evaluating own models on the ranks at hand."""

from collections.abc import Callable

import pytest
from laws import consensus_laws

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("case", consensus_laws.CASES.values(), ids=consensus_laws.CASES)
@pytest.mark.parametrize("law", consensus_laws.LAWS)
def test_law(
    law: Callable[[Transport, consensus_laws.Case], None],
    case: consensus_laws.Case,
    transport: Transport,
) -> None:
    law(transport, case)
