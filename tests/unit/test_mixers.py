"""The laws of mixers over threads, and what only one of them has."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws import gossip_laws
from laws.gossip_laws import CASES, PLACEMENTS, Case, everyones, gathered, hosted, lopsided, nodes_of

from hpc_fl.collectives import DenseMixer
from hpc_fl.collectives.mixer import Placement
from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import MixingMatrix

Law = Callable[[Transport, Case, Placement], None]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("place", PLACEMENTS.values(), ids=PLACEMENTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("law", gossip_laws.LAWS)
def test_law(law: Law, case: Case, place: Callable[[int], Placement], size: int) -> None:
    run_ranks(size, lambda transport: law(transport, case, place(size)))


@pytest.mark.parametrize("n", [1, 70_000, 300_001])
def test_rows_longer_than_what_is_under_way_at_once(n: int) -> None:
    def mix(transport: Transport) -> None:
        placement = PLACEMENTS["several a rank"](3)
        matrix, before = lopsided(nodes_of(placement)), everyones(n, nodes_of(placement))
        mine = hosted(transport, placement, before)
        mixer = DenseMixer(transport, Ledger(), placement, segment=1 << 12)
        mixer.mix(mine, MixingMatrix.from_dense(matrix), 0)
        wanted = matrix @ before.double().numpy()
        np.testing.assert_allclose(gathered(transport, placement, mine), wanted, atol=1e-4)

    run_ranks(3, mix)


def test_masses_are_mixed_in_float64() -> None:
    def mix(transport: Transport) -> None:
        placement = PLACEMENTS["several a rank"](4)
        matrix = lopsided(nodes_of(placement))
        before = everyones(1, nodes_of(placement), dtype=torch.float64)
        mine = hosted(transport, placement, before)
        DenseMixer(transport, Ledger(), placement).mix(mine, MixingMatrix.from_dense(matrix), 0)
        np.testing.assert_allclose(gathered(transport, placement, mine), matrix @ before.numpy(), rtol=1e-12)

    run_ranks(4, mix)


def test_many_sources_share_the_memory() -> None:
    """More sources than segments may be under way, on both sides: nobody waits for ever."""

    def mix(transport: Transport) -> None:
        placement = tuple(tuple(range(rank, 1200, 2)) for rank in range(2))
        before = everyones(3, 1200)
        mine = hosted(transport, placement, before)
        DenseMixer(transport, Ledger(), placement).mix(
            mine, MixingMatrix.from_dense(np.full((1200, 1200), 1 / 1200)), 0
        )
        np.testing.assert_allclose(mine.numpy(), before.mean(0).expand_as(mine).numpy(), rtol=1e-4)

    run_ranks(2, mix)
