"""The laws of mixers over threads, and what only one of them has."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws import gossip_laws
from laws.gossip_cases import CASES, Case
from laws.gossip_laws import (
    PLACEMENTS,
    everyones,
    gathered,
    hosted,
    lopsided,
    nodes_of,
    one_peer,
    ring,
)
from numpy.typing import NDArray

from hpc_fl.collectives import ChocoMixer, DenseMixer, DirectMixer, HierarchicalMixer, SqueezeMixer
from hpc_fl.collectives.mixer import Placement
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import FP16, LowRank, TopK
from hpc_fl.errors import CodecError, TransportError
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import MixingMatrix
from hpc_fl.topology.hierarchy import expanded

Law = Callable[[Transport, Case, Placement], None]


WHERE = [
    *((size, "one a rank") for size in (1, 4, 8)),
    *((size, "several a rank") for size in (2, 3, 5)),
    *((size, "none on the last") for size in (2, 3, 5)),
]


@pytest.mark.parametrize(("size", "place"), WHERE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("law", gossip_laws.LAWS)
def test_law(law: Law, case: Case, place: str, size: int) -> None:
    run_ranks(size, lambda transport: law(transport, case, PLACEMENTS[place](size)))


ENCODED = {name: case for name, case in CASES.items() if case.codec is not None}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", ENCODED.values(), ids=ENCODED)
@pytest.mark.parametrize("law", gossip_laws.PARTING)
def test_law_that_parts_the_ranks(law: Law, case: Case, size: int) -> None:
    placement = PLACEMENTS["one a rank"](size)
    run_ranks(size, lambda transport: law(transport, case, placement))


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
        placement = tuple(tuple(range(rank, 80, 2)) for rank in range(2))
        before = everyones(3, 80)
        mine = hosted(transport, placement, before)
        mixer = DenseMixer(transport, Ledger(), placement, segment=1 << 22)
        mixer.mix(mine, MixingMatrix.from_dense(np.full((80, 80), 1 / 80)), 0)
        np.testing.assert_allclose(mine.numpy(), before.mean(0).expand_as(mine).numpy(), rtol=1e-4)

    run_ranks(2, mix)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])  # 4: under mpirun, tests/system/test_mpirun.py
def test_groups(size: int) -> None:
    run_ranks(size, gossip_laws.groups_mix_as_their_matrix_says)


GROUPS = {
    "each on a rank": (((0, 2), (1,), (3, 4)), ((0, 2), (1,), (3, 4))),
    "over ranks": (((0,), (1,), (2,), (3,), (4,)), ((0, 3), (1,), (2, 4))),
    "some of both": (((0, 1, 4), (2,), (3,), ()), ((0,), (1,), (2, 3, 4))),
    "one for all": (((0, 1), (2,), (3, 4)), ((0, 1, 2, 3, 4),)),
}


@pytest.mark.parametrize(("placement", "groups"), GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("absent", [None, 4, 1])
def test_groups_mix_as_their_matrix_says(placement: Placement, groups: Placement, absent: int | None) -> None:
    there = tuple(tuple(node for node in group if node != absent) for group in groups)
    g = np.full((3, 3), 0.25) + np.diag([0.25] * 3) if len(groups) == 3 else np.eye(1)
    if () in there:
        alone = there.index(())
        g[alone] = g[:, alone] = 0
        g[np.diag_indices(3)] += 1 - g.sum(1)
    matrix = expanded(MixingMatrix.from_dense(g), there, 5)
    # What is left out of a mean of three is as in a group of two.
    spoilt, before = placement[0][0], everyones(1003, 5)
    before[spoilt, 7] = float("nan")
    sound = tuple(tuple(node for node in group if node != spoilt) for group in there)
    wanted = everyones(1003, 5)

    def mix(transport: Transport, start: torch.Tensor) -> NDArray[np.float64]:
        mine, ledger = hosted(transport, placement, start), Ledger()
        mixer = HierarchicalMixer(transport, ledger, placement, groups, DenseMixer)
        left_out = mixer.mix(mine, matrix, 0)
        assert left_out == tuple(n for n in placement[transport.rank] if start[n].isnan().any())
        for row, node in enumerate(placement[transport.rank]):
            assert mine[row].isfinite().all() or node == spoilt
        mixer.close()
        return gathered(transport, placement, mine)

    for after in run_ranks(len(placement), lambda transport: mix(transport, wanted)):
        np.testing.assert_allclose(after, matrix.dense() @ wanted.double().numpy(), atol=1e-5)
    if all(sound):
        kept = expanded(MixingMatrix.from_dense(g), sound, 5).dense()
        for after in run_ranks(len(placement), lambda transport: mix(transport, before)):
            good = [node for node in range(5) if node != spoilt]
            expected = kept @ before.double().nan_to_num(0).numpy()
            np.testing.assert_allclose(after[good], expected[good], atol=1e-5)


def test_groups_that_cannot_be_are_refused() -> None:
    def refuse(transport: Transport) -> None:
        placement: Placement = ((0, 1), (2, 3))
        with pytest.raises(TransportError, match="in one group expected"):
            HierarchicalMixer(transport, Ledger(), placement, ((0, 1), (2,)), DenseMixer)
        with pytest.raises(TransportError, match=r"rank 0 hosts nodes of groups \[0, 1\]"):
            HierarchicalMixer(transport, Ledger(), placement, ((0, 2), (1, 3)), DenseMixer)
        mixer = HierarchicalMixer(transport, Ledger(), placement, ((0, 1), (2, 3)), DenseMixer)
        with pytest.raises(TransportError, match="does not take the same of all nodes of a group"):
            mixer.mix(torch.zeros(2, 4), MixingMatrix.from_dense(ring(4)), 0)

    run_ranks(2, refuse)


def test_copies_between_groups_are_kept_by_their_first_nodes() -> None:
    placement: Placement = ((0, 1), (2,), (3,))
    groups = ((0, 1), (2, 3))
    matrix = expanded(MixingMatrix.from_dense(np.full((2, 2), 0.5)), groups, 4)

    def mix(transport: Transport) -> None:
        def make(t: Transport, ledger: Ledger, p: Placement) -> ChocoMixer:
            return ChocoMixer(t, ledger, p, TopK(ratio=0.1), gamma=0.5)

        first, second = (HierarchicalMixer(transport, Ledger(), placement, groups, make) for _ in range(2))
        mine = hosted(transport, placement, everyones(100, 4))
        first.mix(mine, matrix, 0)
        state = {node: {k: t.clone() for k, t in kept.items()} for node, kept in first.state().items()}
        assert set(state) == {0: {0}, 1: {2}, 2: set()}[transport.rank]
        second.restore(state)
        again = mine.clone()
        first.mix(mine, matrix, 1)
        second.mix(again, matrix, 1)
        assert torch.equal(mine, again)
        total = gathered(transport, placement, mine).sum(0)
        np.testing.assert_allclose(total, everyones(100, 4).double().sum(0).numpy(), atol=1e-4)

    run_ranks(3, mix)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda t, ledger, p: DirectMixer(t, ledger, p, TopK(ratio=0.1)), "topk loses too much"),
        (lambda t, ledger, p: ChocoMixer(t, ledger, p, TopK(ratio=0.1), gamma=0.0), r"gamma = 0\.0 given"),
        (lambda t, ledger, p: SqueezeMixer(t, ledger, p, TopK(ratio=0.1), eta=1.5), r"eta = 1\.5 given"),
        (
            lambda t, ledger, p: ChocoMixer(t, ledger, p, FP16(), gamma=0.5).mix(
                torch.zeros(1, 4), MixingMatrix.from_dense(np.eye(1)), 0
            ),
            "fp16 gives no share of 4 elements for sure",
        ),
    ],
)
def test_codecs_that_cannot_serve_are_refused(make: Callable[..., object], what: str) -> None:
    with pytest.raises(CodecError, match=what):
        make(solo(), Ledger(), ((0,),))


def test_another_matrix_needs_a_reset() -> None:
    mixer = ChocoMixer(solo(), Ledger(), ((0, 1, 2),), TopK(k=1), gamma=0.5)
    rows = everyones(5, 3)
    mixer.mix(rows, MixingMatrix.from_dense(ring(3)), 0)
    mixer.mix(rows, MixingMatrix.from_dense(ring(3)), 1)  # the same, made again
    with pytest.raises(TransportError, match=r"another mixing matrix than before.*reset\(\)"):
        mixer.mix(rows, MixingMatrix.from_dense(one_peer(3)), 2)
    with pytest.raises(CodecError, match="rows of 6 elements, node 0 had 5"):
        mixer.mix(everyones(6, 3), MixingMatrix.from_dense(ring(3)), 2)
    mixer.reset()
    assert mixer.state() == {}
    mixer.mix(everyones(6, 3), MixingMatrix.from_dense(one_peer(3)), 2)


def test_low_rank_differences_come_to_agree() -> None:
    """Each round looks at another subspace, or what one of them misses would never be sent."""
    shapes = ((24, 16), (10,))
    n, nodes = 24 * 16 + 10, 4

    def law(transport: Transport) -> None:
        mixer = ChocoMixer(transport, Ledger(), ((0, 1, 2, 3),), LowRank(4, shapes))
        rows = torch.randn(nodes, n, generator=torch.Generator().manual_seed(0))
        mean, matrix = rows.mean(0), MixingMatrix.from_dense(ring(nodes))
        before = float((rows - mean).norm())
        for round_ in range(150):
            mixer.mix(rows, matrix, round_)
        assert float((rows - mean).norm()) < 0.1 * before
        torch.testing.assert_close(rows.mean(0), mean, rtol=1e-4, atol=1e-4)

    run_ranks(1, law)
