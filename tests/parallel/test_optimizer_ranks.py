"""The laws of per-step optimisers on the ranks at hand."""

from collections.abc import Callable

import pytest
from laws import optimizer_laws

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("make", optimizer_laws.MAKERS.values(), ids=optimizer_laws.MAKERS)
@pytest.mark.parametrize("law", optimizer_laws.LAWS)
def test_law(
    law: Callable[[Transport, optimizer_laws.Make], None], make: optimizer_laws.Make, transport: Transport
) -> None:
    law(transport, make)
