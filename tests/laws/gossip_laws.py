"""What every mixer must do, for any number of ranks and any placement of the nodes. Every rank calls each law
with its transport and a case.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import pytest
import torch
from laws.gossip_cases import Case
from laws.reduction_laws import Counting
from numpy.typing import NDArray

from hpc_fl.collectives import DenseMixer, HierarchicalMixer, gossip_bytes
from hpc_fl.collectives.mixer import Mixer, Placement
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, FP16, QSGD, Identity, OneBit
from hpc_fl.errors import TransportError, WireError
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import MixingMatrix
from hpc_fl.topology.hierarchy import expanded

Matrix = NDArray[np.float64]

SIZES: Final = (0, 1, 7, 33, 1003)
PLACEMENTS: Final[dict[str, Callable[[int], Placement]]] = {
    "one a rank": lambda ranks: tuple((rank,) for rank in range(ranks)),
    "several a rank": lambda ranks: _dealt([1 + (rank + 1) % 3 for rank in range(ranks)]),
    "none on the last": lambda ranks: _dealt([2] * (ranks - 1) + [0]) if ranks > 1 else ((0,),),
}


def _dealt(counts: list[int]) -> Placement:
    """So many nodes for each rank, in turn: neighbours seldom share a rank."""
    left, hosted = list(counts), [[] for _ in counts]  # type: ignore[var-annotated]
    node = 0
    while any(left):
        for rank, count in enumerate(left):
            if count:
                hosted[rank].append(node)
                left[rank], node = count - 1, node + 1
    return tuple(map(tuple, hosted))


def nodes_of(placement: Placement) -> int:
    return sum(map(len, placement))


def ring(n: int) -> Matrix:
    """A third of each neighbour; doubly stochastic."""
    eye = np.eye(n)
    return (eye + np.roll(eye, 1, 1) + np.roll(eye, -1, 1)) / 3


def one_peer(n: int) -> Matrix:
    """Half of the node two steps on, which takes nothing back; doubly stochastic."""
    eye = np.eye(n)
    return (eye + np.roll(eye, 2, 1)) / 2


def lopsided(n: int) -> Matrix:
    """Any weights, a third of them 0."""
    draw = np.random.default_rng(n)
    return draw.normal(size=(n, n)) * (draw.random((n, n)) > 1 / 3)


MATRICES: Final = {"ring": ring, "one peer": one_peer, "lopsided": lopsided}
DOUBLY: Final = {"ring": ring, "one peer": one_peer}


def everyones(n: int, nodes: int, round_: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The rows of all nodes (nodes, n)."""
    draw = torch.Generator().manual_seed(1000 * n + round_)
    return torch.randn(nodes, n, generator=draw).to(dtype) + torch.arange(nodes)[:, None]


def hosted(transport: Transport, placement: Placement, rows: torch.Tensor) -> torch.Tensor:
    """The rows of the nodes hosted here, in memory of their own."""
    return rows[list(placement[transport.rank])].clone()


def gathered(transport: Transport, placement: Placement, rows: torch.Tensor) -> Matrix:
    """The rows of all nodes, in float64, on every rank."""
    whole = np.zeros((nodes_of(placement), rows.shape[1]))
    whole[list(placement[transport.rank])] = rows.double().numpy()
    if whole.size:
        transport.allreduce(whole)
    return whole


def law_rows_become_the_product(transport: Transport, case: Case, placement: Placement) -> None:
    if case.exact is None:
        return
    mixer, nodes = case.make(transport, Ledger(), placement), nodes_of(placement)
    for n in SIZES:
        for matrix in (make(nodes) for make in MATRICES.values()):
            before = everyones(n, nodes)
            mine = hosted(transport, placement, before)
            assert mixer.mix(mine, MixingMatrix.from_dense(matrix), 0) == ()
            wanted = matrix @ before.double().numpy()
            bound = case.exact * (np.abs(matrix) + np.eye(nodes)).sum(1, keepdims=True) * (3 + nodes)
            assert (np.abs(gathered(transport, placement, mine) - wanted) <= bound).all()
    mixer.close()


def law_the_mean_stays(transport: Transport, case: Case, placement: Placement) -> None:
    nodes = nodes_of(placement)
    for matrix in (MixingMatrix.from_dense(make(nodes)) for make in DOUBLY.values()):
        mixer = case.make(transport, Ledger(), placement)
        before = everyones(1003, nodes)
        mine = hosted(transport, placement, before)
        for round_ in range(5):
            mixer.mix(mine, matrix, round_)
        after = gathered(transport, placement, mine)
        np.testing.assert_allclose(after.mean(0), before.double().numpy().mean(0), rtol=0, atol=1e-5 * nodes)
        mixer.close()


def law_what_is_not_finite_reaches_nobody(transport: Transport, case: Case, placement: Placement) -> None:
    mixer, nodes = case.make(transport, Ledger(), placement), nodes_of(placement)
    matrix = ring(nodes)
    for place, bad in ((0, float("nan")), (500, float("inf")), (1002, -float("inf"))):
        spoilt = place % nodes
        before = everyones(1003, nodes)
        before[spoilt, place] = bad
        mine = hosted(transport, placement, before)
        left_out = mixer.mix(mine, MixingMatrix.from_dense(matrix), 0)
        assert left_out == ((spoilt,) if spoilt in placement[transport.rank] else ())
        kept = matrix.copy()
        kept[np.diag_indices(nodes)] += kept[:, spoilt]
        kept[:, spoilt] = 0
        for row, node in enumerate(placement[transport.rank]):
            if node == spoilt:
                assert torch.equal(mine[row].isnan(), before[spoilt].isnan())
                assert torch.equal(mine[row].nan_to_num(), before[spoilt].nan_to_num())
            else:
                assert mine[row].isfinite().all()
                if case.exact is not None:
                    wanted = kept[node] @ before.double().nan_to_num(0, 0, 0).numpy()
                    bound = 2 * case.exact * (3 + nodes)
                    np.testing.assert_allclose(mine[row].double().numpy(), wanted, rtol=0, atol=bound)
    mixer.close()


def law_started_ones_give_the_same_bits(transport: Transport, case: Case, placement: Placement) -> None:
    nodes = nodes_of(placement)
    matrices = [MixingMatrix.from_dense(ring(nodes)) for _ in range(2)]
    waiting, starting = (case.make(transport, Ledger(), placement) for _ in range(2))
    one, two = (hosted(transport, placement, everyones(1003, nodes, round_)) for round_ in range(2))
    handles = [starting.start(x, matrices[0], round_) for round_, x in enumerate((one, two))]
    plain = [hosted(transport, placement, everyones(1003, nodes, round_)) for round_ in range(2)]
    for round_, x in enumerate(plain):
        waiting.mix(x, matrices[0], round_)
    assert [handle.wait(60) for handle in reversed(handles)] == [(), ()]
    assert torch.equal(one, plain[0])
    assert torch.equal(two, plain[1])
    waiting.close()
    starting.close()


def law_the_ledger_has_what_was_sent(transport: Transport, case: Case, placement: Placement) -> None:
    nodes, ledger, counting = nodes_of(placement), Ledger(), Counting(transport)
    for matrix in (MixingMatrix.from_dense(make(nodes)) for make in MATRICES.values()):
        mixer = case.make(counting, ledger, placement)
        for call, n in enumerate((1003, 1003) if case.codec else SIZES):
            counting.sent = 0
            mixer.mix(hosted(transport, placement, everyones(n, nodes)), matrix, call)
            sent = ledger.take()
            agreed = 16 * (transport.size - 1) if call == 0 else 0
            assert sent.get("gossip", 0) + sent.get("headers", 0) == counting.sent + agreed
            nbytes = 4 * n if case.codec is None else case.codec.nbytes(n)
            formula = gossip_bytes(matrix, placement, transport.rank, nbytes)
            if case.codec is None or isinstance(case.codec, FP16 | BF16 | Identity | OneBit | QSGD):
                assert sent.get("gossip", 0) == formula
            assert sent.get("gossip", 0) <= formula
            assert (counting.sent == 0) == (formula == 0)


def law_the_nodes_come_to_agree(transport: Transport, case: Case, placement: Placement) -> None:
    if case.contracts is None or nodes_of(placement) > 8:
        return
    mixer, nodes = case.make(transport, Ledger(), placement), nodes_of(placement)
    matrix, mine = MixingMatrix.from_dense(ring(nodes)), hosted(transport, placement, everyones(330, nodes))
    before = disagreement(gathered(transport, placement, mine))
    for round_ in range(100):
        mixer.mix(mine, matrix, round_)
    assert disagreement(gathered(transport, placement, mine)) <= case.contracts * before
    mixer.close()


def disagreement(rows: Matrix) -> float:
    """The consensus distance, sqrt(1/N sum ||x_i - mean||^2)."""
    return float(np.sqrt(((rows - rows.mean(0)) ** 2).sum(1).mean()))


def law_a_row_in_its_place_mixes_again_and_again(
    transport: Transport, case: Case, placement: Placement
) -> None:
    """Short rows of one peer may take a short way from the second call on."""
    if case.exact is None:
        return
    nodes = nodes_of(placement)
    wanted = everyones(33, nodes).double().numpy()
    rows, mixer = (
        hosted(transport, placement, everyones(33, nodes)),
        case.make(transport, Ledger(), placement),
    )
    weights = (0.5 * np.eye(nodes) + 0.5 * np.roll(np.eye(nodes), 1, 1), one_peer(nodes), ring(nodes))
    matrices = [MixingMatrix.from_dense(one) for one in weights]
    for turn in range(9):
        assert mixer.mix(rows, matrices[turn % 3], turn) == ()
        wanted = weights[turn % 3] @ wanted
        np.testing.assert_allclose(gathered(transport, placement, rows), wanted, atol=9 * 40 * case.exact)
    spoilt = [node for node in placement[transport.rank] if node == nodes - 1]
    if spoilt:
        rows[-1, 3] = float("nan")
    assert mixer.mix(rows, matrices[0], 9) == tuple(spoilt)
    # The node before it takes its half of its own.
    mixed = [0.5 * wanted[i] + 0.5 * wanted[i if i == nodes - 2 else i + 1] for i in range(nodes - 1)]
    for node, row in zip(placement[transport.rank], rows.double().numpy(), strict=True):
        if node not in spoilt:
            np.testing.assert_allclose(row, mixed[node], atol=10 * 40 * case.exact)


def law_what_all_know_need_not_travel(transport: Transport, case: Case, placement: Placement) -> None:
    """Nodes that all hold one model mix it at once, however hard the codec compresses."""
    mixer = case.make(transport, Ledger(), placement)
    common = torch.randn(333, generator=torch.Generator().manual_seed(5))
    mixer.agree(common)
    rows = common.expand(len(placement[transport.rank]), -1).clone()
    matrix = MixingMatrix.from_dense(ring(nodes_of(placement)))
    for round_ in range(3):
        mixer.mix(rows, matrix, round_)
    if mixer.name in ("dense", "choco"):
        torch.testing.assert_close(rows, common.expand(len(rows), -1), rtol=1e-6, atol=1e-6)
    assert rows.isfinite().all()


def law_it_goes_on_from_what_it_kept(transport: Transport, case: Case, placement: Placement) -> None:
    nodes = nodes_of(placement)
    matrix = MixingMatrix.from_dense(ring(nodes))

    def rounds(mixer: Mixer, numbers: range, rows: torch.Tensor) -> torch.Tensor:
        for number in numbers:
            rows += hosted(transport, placement, everyones(1003, nodes, number))
            mixer.mix(rows, matrix, number)
        return rows

    first, second = (case.make(transport, Ledger(), placement) for _ in range(2))
    mine = rounds(first, range(3), hosted(transport, placement, everyones(1003, nodes)))
    saved = {node: {name: kept.clone() for name, kept in of.items()} for node, of in first.state().items()}
    assert set(saved) <= set(placement[transport.rank])
    second.restore({**saved, nodes: {}})
    again = rounds(second, range(3, 6), mine.clone())
    assert torch.equal(rounds(first, range(3, 6), mine), again)


def law_any_placement_gives_the_same(transport: Transport, case: Case, placement: Placement) -> None:
    """Compared with all nodes on the first rank."""
    nodes = nodes_of(placement)
    together: Placement = (tuple(range(nodes)), *[()] * (transport.size - 1))
    matrix, before = MixingMatrix.from_dense(ring(nodes)), everyones(1003, nodes)
    results = []
    for place in (placement, together):
        mixer, mine = case.make(transport, Ledger(), place), hosted(transport, place, before)
        for round_ in range(2):
            mixer.mix(mine, matrix, round_)
        results.append(gathered(transport, place, mine))
        mixer.close()
    # Where a sum is rounded another way, a codec may round it to another of its values.
    atol = 1e-5 if case.codec is None else 0.1 * nodes
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=atol)


def law_a_changed_message_names_its_sender(transport: Transport, case: Case, placement: Placement) -> None:
    """Rank 0 sends its right neighbour a message with one bit turned; ranks must be threads, as they part
    ways here.
    """
    nodes, counting = nodes_of(placement), Counting(transport)
    matrix = MixingMatrix.from_dense(np.full((nodes, nodes), 1 / nodes))
    if transport.rank == 0:
        counting.alter = (1, 12345)
    mixer, mine = (
        case.make(counting, Ledger(), placement),
        hosted(transport, placement, everyones(1003, nodes)),
    )
    if transport.rank == 1:
        with pytest.raises(WireError, match="message of rank 0: "):
            mixer.mix(mine, matrix, 0)
    else:
        mixer.mix(mine, matrix, 0)


def law_rows_of_other_lengths_are_refused(transport: Transport, case: Case, placement: Placement) -> None:
    """On every rank, before anything is sent."""
    if transport.size == 1:
        return
    ledger, counting, last = Ledger(), Counting(transport), transport.size - 1
    mixer = case.make(counting, ledger, placement)
    rows = torch.ones(len(placement[transport.rank]), 5000 if transport.rank == last else 33)
    with pytest.raises(TransportError, match=rf"elements of a row: 33 on rank 0.*; 5000 on rank {last};"):
        mixer.mix(rows, MixingMatrix.from_dense(ring(nodes_of(placement))), 0)
    assert counting.sent == 0
    assert not ledger.take()


def law_unfit_rows_are_refused(transport: Transport, case: Case, placement: Placement) -> None:
    mixer, nodes = case.make(transport, Ledger(), placement), nodes_of(placement)
    matrix, b = MixingMatrix.from_dense(ring(nodes)), len(placement[transport.rank])
    with pytest.raises(TransportError, match=rf"contiguous \({b}, n\) expected"):
        mixer.mix(torch.zeros(b + 1, 5), matrix, 0)
    with pytest.raises(TransportError, match="float32"):
        mixer.mix(torch.zeros(b, 5, dtype=torch.int32), matrix, 0)
    with pytest.raises(TransportError, match=f"matrix of {nodes + 1} nodes, the ranks host {nodes}"):
        mixer.mix(torch.zeros(b, 5), MixingMatrix.from_dense(ring(nodes + 1)), 0)
    with pytest.raises(TransportError, match="placement"):
        case.make(transport, Ledger(), (*placement, (nodes + 1,)))
    mixer.close()


def groups_mix_as_their_matrix_says(transport: Transport) -> None:
    """Pairs of ranks are groups, the last of one rank where their number is odd; one node a rank."""
    size = transport.size
    placement = PLACEMENTS["one a rank"](size)
    groups = tuple(tuple(range(first, min(first + 2, size))) for first in range(0, size, 2))
    matrix, before = (
        expanded(MixingMatrix.from_dense(lopsided(len(groups))), groups, size),
        everyones(1003, size),
    )
    mixer = HierarchicalMixer(transport, Ledger(), placement, groups, DenseMixer)
    mine = hosted(transport, placement, before)
    mixer.start(mine, matrix, 0).wait(60)
    after = gathered(transport, placement, mine)
    np.testing.assert_allclose(after, matrix.dense() @ before.double().numpy(), atol=1e-4)
    mixer.close()


PARTING: Final = (law_a_changed_message_names_its_sender,)
"""Laws whose ranks do not all end well: for threads only, and mixers that encode."""
LAWS: Final = [
    value for name, value in list(globals().items()) if name.startswith("law_") and value not in PARTING
]
