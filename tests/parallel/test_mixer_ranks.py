"""The laws of mixers over MPI, with whatever number of ranks runs them."""

from collections.abc import Callable

import pytest
from laws import gossip_laws
from laws.gossip_laws import CASES, PLACEMENTS, Case

from hpc_fl.collectives.mixer import Placement
from hpc_fl.comm.transport import Transport


@pytest.mark.parametrize("place", PLACEMENTS.values(), ids=PLACEMENTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("law", gossip_laws.LAWS)
def test_law(
    law: Callable[[Transport, Case, Placement], None],
    case: Case,
    place: Callable[[int], Placement],
    transport: Transport,
) -> None:
    law(transport, case, place(transport.size))
