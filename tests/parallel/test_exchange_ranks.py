"""The exchange laws on the ranks at hand."""

from collections.abc import Callable

import pytest
from laws.exchange_laws import LAWS

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", LAWS)
def test_law(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)
