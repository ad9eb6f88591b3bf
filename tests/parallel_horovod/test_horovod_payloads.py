"""Compressed payloads and whole exchanges over Horovod: the laws that hold over MPI."""

from collections.abc import Callable

import pytest
from laws import exchange_laws, payload_laws

from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("law", payload_laws.LAWS)
def test_law_of_payloads(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)


@pytest.mark.parametrize("make", exchange_laws.MAKERS.values(), ids=exchange_laws.MAKERS)
@pytest.mark.parametrize("law", exchange_laws.LAWS)
def test_law_of_exchanges(
    law: Callable[[Transport, exchange_laws.Make], None], make: exchange_laws.Make, transport: Transport
) -> None:
    law(transport, make)
