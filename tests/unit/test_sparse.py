"""The laws of sparse reductions over threads; the sums themselves; messages that cannot be read."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import sparse_bytes_laws, sparse_laws
from laws.sparse_laws import EXACT, GLOBAL, MAKERS, Law, Make
from numpy.typing import NDArray

from hpc_fl.collectives import sparse_scheme
from hpc_fl.collectives.elements import Elements, added, growth_of, joined, sparse_size, write
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.memory import Piece
from hpc_fl.collectives.sparse import EXACT as EXACT_SCHEMES
from hpc_fl.collectives.sparse import SCHEMES, Sparse
from hpc_fl.collectives.sparse_scheme import Load
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression import OneBit, Payload, TopK
from hpc_fl.errors import CodecError, WireError
from hpc_fl.telemetry import Ledger

SIZES = [1, 2, 3, 5, 8]  # 4: under mpirun, tests/system/test_mpirun.py


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("law", [*sparse_laws.LAWS, sparse_bytes_laws.law_what_is_counted_is_what_is_sent])
def test_law(law: Law, make: Make, size: int) -> None:
    run_ranks(size, lambda transport: law(transport, make))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_exact_law(make: Make, size: int) -> None:
    law = sparse_laws.law_the_exact_schemes_give_the_mean_of_the_payloads
    run_ranks(size, lambda transport: law(transport, make))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", GLOBAL.values(), ids=GLOBAL)
def test_global_law(make: Make, size: int) -> None:
    run_ranks(size, lambda transport: sparse_laws.law_the_k_largest_of_the_sum(transport, make))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("law", [*sparse_laws.LAWS_OF_ALL, *sparse_bytes_laws.LAWS_OF_ALL])
def test_law_of_all(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_laws_in_several_pieces(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with large buffers: what is sent is cut, and used while more of it travels."""
    monkeypatch.setattr(sparse_scheme, "PIECE", 40)
    assert sparse_scheme.pieces_for(100) == 2
    for law in (
        sparse_laws.law_nothing_is_lost,
        sparse_bytes_laws.law_what_is_counted_is_what_is_sent,
        sparse_laws.law_a_sum_that_is_too_large_changes_nothing,
    ):
        run_ranks(3, lambda transport, law=law: law(transport, make))  # type: ignore[misc]


@st.composite
def elements(draw: st.DrawFn, n: int) -> Elements:
    """Some of n elements, of whole values."""
    indices = sorted(draw(st.sets(st.integers(0, n - 1)))) if n else []
    values = draw(st.lists(st.integers(-99, 99), min_size=len(indices), max_size=len(indices)))
    return Elements.made(n, np.array(indices, np.int32), np.array(values, np.float32))


lists_of_elements = st.integers(0, 80).flatmap(lambda n: st.lists(elements(n), min_size=1, max_size=6))


def formed(some: Elements) -> NDArray[np.float32]:
    out = np.zeros(some.n, np.float32)
    out[some.indices] = some.values
    return out


@given(lists_of_elements)
def test_sums_are_those_of_the_dense_buffers(parts: list[Elements]) -> None:
    expected = np.sum([formed(part) for part in parts], axis=0)
    assert np.array_equal(formed(added(parts)), expected)
    out = np.full(parts[0].n, np.nan, np.float32)
    write(parts, out)
    assert np.array_equal(out, expected)


@given(lists_of_elements)
def test_a_sum_does_not_depend_on_the_order_of_a_pair(parts: list[Elements]) -> None:
    one, other = parts[0].plus(parts[-1]), parts[-1].plus(parts[0])
    assert np.array_equal(one.indices, other.indices)
    assert one.values.tobytes() == other.values.tobytes()


@given(lists_of_elements, st.lists(st.integers(0, 80), max_size=5))
def test_what_is_cut_and_placed_again_is_the_same(parts: list[Elements], bounds: list[int]) -> None:
    whole = parts[0]
    edges = [0, *sorted(min(bound, whole.n) for bound in bounds), whole.n]
    pieces = [Piece(low, high) for low, high in pairwise(edges)]
    cut = whole.cut(pieces)
    assert [part.n for part in cut] == [len(piece) for piece in pieces]
    again = joined([part.placed(piece, whole.n) for part, piece in zip(cut, pieces, strict=True)])
    assert np.array_equal(formed(again), formed(whole))


@given(lists_of_elements)
def test_payloads_are_read_back_and_fit_their_room(parts: list[Elements]) -> None:
    for part in parts:
        payload = part.payload()
        assert payload.nbytes <= sparse_size(len(part), part.n) <= min(8 * len(part), 4 * part.n)
        again = Elements.read(Payload.frombytes(payload.tobytes()), part.values)
        assert np.array_equal(again.indices, part.indices)
        assert again.values.tobytes() == part.values.tobytes()


@given(lists_of_elements, st.integers(0, 90))
def test_the_largest_are_those_of_top_k(parts: list[Elements], k: int) -> None:
    some = parts[0]
    kept = np.empty(some.n, np.float32)
    codec = TopK(k=min(k, some.n))
    codec.decode(codec.encode(formed(some)), kept)
    assert np.array_equal(formed(some.largest(k)), kept)


def test_a_union_is_dense_from_where_it_takes_no_more_bytes() -> None:
    n = 3200
    for k in (n // 2, 31 * n // 32 - 1, 31 * n // 32, n):
        indices = np.sort(np.random.default_rng(0).permutation(n)[:k]).astype(np.int32)
        some = Elements.made(n, indices, np.ones(k, np.float32))
        assert len(some) == (n if 4 * k + n // 8 >= 4 * n else k)
        assert some.payload().nbytes == min(4 * n, 4 * k + n // 8)
        assert formed(some).sum() == k


@pytest.mark.parametrize("growth", [0.0, 0.5, 1.0])
def test_how_a_union_grows(growth: float) -> None:
    union = round(100 * 8**growth)
    assert growth_of(union, 100, 8) == pytest.approx(growth, abs=1e-2)
    assert Load(10_000, (100,) * 8, growth=growth).union(8) == pytest.approx(union, abs=1)


def test_auto_takes_what_costs_least() -> None:
    """Latency counts for small ones, bytes for large ones, the overlap with many ranks."""
    fast, slow = Link(latency=1e-3, bandwidth=1e10), Link(latency=1e-6, bandwidth=1e6)

    def chosen(link: Link, load: Load, global_k: bool = False) -> str:
        reduction = Sparse(solo(), Ledger(), TopK(k=1), feedback=True, link=link, global_k=global_k)
        costs = {name: one.seconds(load, link) for name, one in EXACT_SCHEMES.items()}
        name = reduction.choose(load).name
        assert costs[name] == min(costs.values())
        return name

    n = 25_000_000
    assert chosen(fast, Load(n, (10,) * 16)) == "doubling"
    assert chosen(slow, Load(n, (n // 100,) * 4, growth=0.1)) == "split"
    assert chosen(slow, Load(n, (n // 100,) * 64, growth=0.5)) == "split"
    assert chosen(slow, Load(n, (n // 100,) * 64, keep=n // 100), global_k=True) == "split"
    assert chosen(Link(), Load(n, (n // 100,) * 4)) == chosen(Link(), Load(n, (n // 1000,) * 4)) == "gather"


def test_auto_learns_how_much_the_ranks_overlap() -> None:
    """All ranks select the same elements: after the first call, split is known to send less."""

    spread = torch.randn(8000, generator=torch.Generator().manual_seed(0))

    def rank(transport: Transport) -> tuple[int, int]:
        ledger = Ledger()
        link = Link(latency=0.0, bandwidth=1e6)
        reduction = Sparse(transport, ledger, TopK(k=500), feedback=False, link=link)
        sent = []
        for _ in range(2):
            ledger.take()
            reduction.allreduce(spread.clone())
            sent.append(ledger.take()["allreduce"])
        return sent[0], sent[1]

    for first, second in run_ranks(4, rank):
        assert second <= 0.75 * first


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_message_that_cannot_be_read_names_its_sender(scheme: str) -> None:
    class Altering:
        """Rank 1's messages have one bit changed."""

        def __init__(self, transport: Transport) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def dup(self) -> Transport:
            return Altering(self._transport.dup())  # type: ignore[return-value]

        def isend(self, buf: NDArray[np.uint8], dest: int, tag: int = 0) -> Request:
            altered = buf.copy()
            altered[-1] ^= 1 if self._transport.rank == 1 else 0
            return self._transport.isend(altered, dest, tag)

    def rank(transport: Transport) -> None:
        altering: Any = Altering(transport)
        reduction = Sparse(altering, Ledger(), TopK(k=9), feedback=True, scheme=scheme)
        reduction.allreduce(torch.randn(100))

    with pytest.raises(WireError, match="message of rank 1"):
        run_ranks(2, rank)


def test_a_foreign_payload_is_refused() -> None:
    payload = OneBit().encode(np.ones(8, np.float32))
    with pytest.raises(WireError, match="topk is 3"):
        Elements.read(payload, np.empty(8, np.float32))


def test_links_out_of_range_are_refused() -> None:
    for latency, bandwidth in ((-1.0, 1.0), (0.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(CodecError, match="bandwidth > 0"):
            Link(latency, bandwidth)
