"""The laws of mixers over MPI, with whatever number of ranks runs them."""

from collections.abc import Callable

import pytest
from laws import gossip_laws, neighbor_laws
from laws.gossip_cases import CASES, Case
from laws.gossip_laws import PLACEMENTS

from hpc_fl.collectives.mixer import Placement
from hpc_fl.comm.transport import Transport

FEW = (
    ("dense", "one a rank"),
    ("dense", "several a rank"),
    ("direct, 8 bits", "one a rank"),
    ("choco, top-k", "several a rank"),
    ("squeeze, one bit", "none on the last"),
)
"""Each way to mix, and each placement; all with all over threads."""


@pytest.mark.parametrize(
    ("case", "place"), [(CASES[a], PLACEMENTS[b]) for a, b in FEW], ids=map(", ".join, FEW)
)
@pytest.mark.parametrize("law", gossip_laws.LAWS)
def test_law(
    law: Callable[[Transport, Case, Placement], None],
    case: Case,
    place: Callable[[int], Placement],
    transport: Transport,
) -> None:
    law(transport, case, place(transport.size))


@pytest.mark.parametrize("law", neighbor_laws.LAWS)
def test_law_of_neighbours(law: Callable[[Transport], None], transport: Transport) -> None:
    law(transport)


def test_groups(transport: Transport) -> None:
    gossip_laws.groups_mix_as_their_matrix_says(transport)
