"""The laws of optimisers with gossip, on the ranks at hand."""

from collections.abc import Callable

import pytest
from laws import gossip_optimizer_laws

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", gossip_optimizer_laws.LAWS)
def test_law(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)
