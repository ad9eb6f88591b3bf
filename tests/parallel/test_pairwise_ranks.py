"""The laws of pairwise averaging on the ranks at hand."""

from collections.abc import Callable

import pytest
from laws import pairwise_laws

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", pairwise_laws.LAWS)
def test_law(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)


@pytest.mark.parametrize("graph", pairwise_laws.GRAPHS)
def test_many_exchanges(graph: str, transport: Transport) -> None:
    if transport.size > 1:
        pairwise_laws.law_many_exchanges_and_no_deadlock(transport, graph)
