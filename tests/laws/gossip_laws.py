"""What every mixer must do, for any number of ranks and any placement of the nodes. Every rank calls each law
with its transport and a case.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pytest
import torch
from laws.reduction_laws import Counting
from numpy.typing import NDArray

from hpc_fl.collectives import DenseMixer, gossip_bytes
from hpc_fl.collectives.mixer import Mixer, Placement
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import MixingMatrix

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


@dataclass(frozen=True)
class Case:
    """``make``: a mixer over a transport. ``exact``: whether it gives W X, to rounding."""

    make: Callable[[Transport, Ledger, Placement], Mixer]
    exact: bool = False


CASES: Final[dict[str, Case]] = {
    "dense": Case(DenseMixer, exact=True),
    "dense in short segments": Case(
        lambda transport, ledger, placement: DenseMixer(transport, ledger, placement, segment=64), exact=True
    ),
}


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
    if not case.exact:
        return
    mixer, nodes = case.make(transport, Ledger(), placement), nodes_of(placement)
    for n in SIZES:
        for matrix in (make(nodes) for make in MATRICES.values()):
            before = everyones(n, nodes)
            mine = hosted(transport, placement, before)
            assert mixer.mix(mine, MixingMatrix.from_dense(matrix), 0) == ()
            wanted = matrix @ before.double().numpy()
            bound = 1e-6 * (np.abs(matrix) @ np.abs(before.double().numpy()) + 1)
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
                if case.exact:
                    wanted = kept[node] @ before.double().nan_to_num(0, 0, 0).numpy()
                    np.testing.assert_allclose(mine[row].double().numpy(), wanted, atol=1e-4)
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
    if not case.exact:
        return
    nodes, ledger, counting = nodes_of(placement), Ledger(), Counting(transport)
    mixer = case.make(counting, ledger, placement)
    for make in MATRICES.values():
        for n in SIZES:
            matrix = MixingMatrix.from_dense(make(nodes))
            mixer.mix(hosted(transport, placement, everyones(n, nodes)), matrix, 0)
            assert ledger.take()["gossip"] == counting.sent
            assert counting.sent == gossip_bytes(matrix, placement, transport.rank, 4 * n)
            counting.sent = 0


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


LAWS: Final = [value for name, value in list(globals().items()) if name.startswith("law_")]
