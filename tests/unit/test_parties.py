"""Laws of the party store: a rank holds its parties' rows, and reads no others."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl.data import ArraySource, Partition, PartyStore, partition, place
from hpc_fl.data.source import Array, Int64Array
from hpc_fl.errors import DataError

N = 23
X = np.arange(N * 6, dtype=np.float32).reshape(N, 2, 3) + 1
Y = np.arange(N) % 5


class CountingSource:
    """Remembers which rows it was asked for."""

    def __init__(self) -> None:
        self.inner = ArraySource(X, Y)
        self.asked: list[int] = []

    def __len__(self) -> int:
        return N

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    @property
    def labels(self) -> Int64Array | None:
        return self.inner.labels

    @property
    def groups(self) -> Int64Array | None:
        return None

    def rows(self, indices: Int64Array) -> tuple[Array, Array]:
        self.asked += indices.tolist()
        return self.inner.rows(indices)


def split(parties: int, seed: int = 0) -> Partition:
    return partition.dirichlet(ArraySource(X, Y), parties, rng=np.random.default_rng(seed), alpha=0.3)


@given(st.integers(1, N), st.integers(1, 30), st.integers(0, 99))
def test_ranks_together_read_each_row_once_and_each_its_own(parties: int, ranks: int, seed: int) -> None:
    parts = split(parties, seed)
    everything: list[int] = []
    for hosted in place(parts.sizes, ranks):
        source = CountingSource()
        store = PartyStore.load(source, parts, hosted)
        assert source.asked == [row for party in hosted for row in parts.rows[party].tolist()]
        assert len(store.x) == len(source.asked)
        everything += source.asked
    assert sorted(everything) == list(range(N))


def test_partitions_and_placement_read_no_rows() -> None:
    source = CountingSource()
    rng = np.random.default_rng(0)
    for made in (
        partition.shuffle(source, 4, rng=rng),
        partition.sample(source, 4, rng=rng, size=3),
        partition.dirichlet(source, 4, rng=rng, alpha=0.5),
        partition.shards(source, 4, rng=rng),
        partition.quantity(source, 4, rng=rng, alpha=0.5),
        partition.features(source, 4, rng=rng),
    ):
        place(made.sizes, 3)
    assert source.asked == []


@given(st.permutations(range(6)), st.integers(0, 6))
def test_a_party_s_rows_are_views_of_the_right_rows(order: list[int], count: int) -> None:
    parts, hosted = split(6), tuple(order[:count])
    store = PartyStore.load(ArraySource(X, Y), parts, hosted)
    assert store.party_ids == hosted
    assert len(store) == count
    assert store.x.shape == (store.counts.sum(), 2, 3)
    for i, party in enumerate(hosted):
        x, y = store[party]
        start, stop = store.bounds(party)
        assert party in store
        assert (store.starts[i], store.counts[i]) == (start, stop - start)
        assert store.samples(party) == len(parts.rows[party]) == stop - start
        np.testing.assert_array_equal(x.numpy(), X[parts.rows[party]])
        np.testing.assert_array_equal(y.numpy(), Y[parts.rows[party]])
        assert x.untyped_storage().data_ptr() == store.x.untyped_storage().data_ptr()
        assert x.is_contiguous()


def test_a_rank_without_parties_holds_no_rows() -> None:
    store = PartyStore.load(ArraySource(X, Y), split(3), ())
    assert store.x.shape == (0, 2, 3)
    assert store.x.dtype == torch.float32
    assert store.y.dtype == torch.int64
    assert len(store) == 0
    assert 0 not in store


def test_a_party_of_one_sample() -> None:
    store = PartyStore.load(ArraySource(X, Y), split(N), (7,))
    assert store.samples(7) == 1
    assert store[7][0].shape == (1, 2, 3)


@given(st.integers(1, 6), st.integers(0, 99))
def test_parties_by_features_add_up_to_the_sample(parties: int, seed: int) -> None:
    source = CountingSource()
    parts = partition.features(source, parties, rng=np.random.default_rng(seed))
    store = PartyStore.load(source, parts, range(parties))
    assert source.asked == list(range(N))
    np.testing.assert_array_equal(sum(store[party][0].numpy() for party in range(parties)), X)
    assert parts.columns is not None
    for party in range(parties):
        x, y = store[party]
        np.testing.assert_array_equal(y.numpy(), Y)
        owned = np.flatnonzero(x.numpy().reshape(N, -1).any(axis=0))
        np.testing.assert_array_equal(owned, parts.columns[party])
    assert PartyStore.load(source, parts, ()).x.shape == (0, 2, 3)


def test_tokens_cannot_be_divided_by_features() -> None:
    tokens = ArraySource(np.ones((4, 3), np.int64), np.ones((4, 3), np.int64))
    parts = partition.features(tokens, 2, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="0 is a token"):
        PartyStore.load(tokens, parts, (0,))


def test_parties_that_are_not_there_are_named() -> None:
    store = PartyStore.load(ArraySource(X, Y), split(4), (1, 3))
    for use in (store.bounds, store.samples, store.__getitem__):
        with pytest.raises(DataError, match="party 2 is not hosted"):
            use(2)
    for wrong in ((4,), (-1,)):
        with pytest.raises(DataError, match=r"parties 0\.\.3"):
            PartyStore.load(ArraySource(X, Y), split(4), wrong)
    with pytest.raises(DataError, match="distinct"):
        PartyStore.load(ArraySource(X, Y), split(4), (1, 1))
