"""Laws of partitions: cover, sizes, determinism, and what each one promises."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl.data import ArraySource, Partition, partition
from hpc_fl.data.apportion import apportion
from hpc_fl.errors import DataError

Make = Callable[..., Partition]
COVERING: dict[str, Make] = {
    "shuffle": partition.shuffle,
    "dirichlet 0.1": partial(partition.dirichlet, alpha=0.1),
    "dirichlet 1e-9": partial(partition.dirichlet, alpha=1e-9),
    "dirichlet 1e9": partial(partition.dirichlet, alpha=1e9),
    "shards": partial(partition.shards, labels_per_party=4),
    "quantity alpha": partial(partition.quantity, alpha=0.3),
    "quantity exponent": partial(partition.quantity, exponent=1.5),
    "quantity equal": partial(partition.quantity, exponent=0.0),
    "natural": partition.natural,
}
ALL: dict[str, Make] = COVERING | {
    "sample": partial(partition.sample, size=1),
    "features": partition.features,
}


def source_of(labels: list[int]) -> ArraySource:
    """A source with these labels, as many groups as samples, and one more feature than samples."""
    n = len(labels)
    return ArraySource(np.zeros((n, n + 1), np.float32), np.array(labels), np.arange(n)[::-1])


@st.composite
def cases(draw: st.DrawFn) -> tuple[ArraySource, int, int]:
    """Any labels of at most 4 kinds, any number of parties that can be served, any seed."""
    labels = draw(st.lists(st.integers(0, 3), min_size=4, max_size=60))
    parties = draw(st.integers(1, len(labels) // 4))
    return source_of(labels), parties, draw(st.integers(0, 2**32))


@pytest.mark.parametrize("name", COVERING)
@given(case=cases())
def test_every_sample_is_held_exactly_once_and_no_party_is_empty(
    name: str, case: tuple[ArraySource, int, int]
) -> None:
    source, parties, seed = case
    made = COVERING[name](source, parties, rng=np.random.default_rng(seed))
    assert made.parties == parties
    assert made.sizes.sum() == len(source)
    assert made.sizes.dtype == np.int64
    assert made.sizes.min() >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(made.rows)), np.arange(len(source)))


@pytest.mark.parametrize("name", ALL)
@given(case=cases())
def test_the_seed_makes_the_partition_and_rows_ascend(name: str, case: tuple[ArraySource, int, int]) -> None:
    source, parties, seed = case
    one, same = (ALL[name](source, parties, rng=np.random.default_rng(seed)) for _ in range(2))
    for rows, again in zip(one.rows, same.rows, strict=True):
        np.testing.assert_array_equal(rows, again)
        assert rows.dtype == np.int64
        assert np.all(np.diff(rows) > 0)


@pytest.mark.parametrize("name", ["shuffle", "quantity equal"])
@given(case=cases())
def test_equal_shares_differ_by_one_at_most(name: str, case: tuple[ArraySource, int, int]) -> None:
    source, parties, seed = case
    sizes = COVERING[name](source, parties, rng=np.random.default_rng(seed)).sizes
    assert np.ptp(sizes) <= 1


@given(case=cases(), least=st.integers(1, 4), alpha=st.floats(1e-6, 100))
def test_no_party_is_below_min_samples(case: tuple[ArraySource, int, int], least: int, alpha: float) -> None:
    source, parties, seed = case
    for make in (partition.dirichlet, partition.quantity):
        made = make(source, parties, rng=np.random.default_rng(seed), alpha=alpha, min_samples=least)
        assert made.sizes.min() >= least


@given(case=cases(), k=st.integers(1, 4))
def test_shards_give_a_party_no_more_labels_than_asked(case: tuple[ArraySource, int, int], k: int) -> None:
    source, parties, seed = case
    assert source.labels is not None
    if parties * k < len(np.unique(source.labels)):
        with pytest.raises(DataError, match="use labels_per_party="):
            partition.shards(source, parties, rng=np.random.default_rng(seed), labels_per_party=k)
        return
    made = partition.shards(source, parties, rng=np.random.default_rng(seed), labels_per_party=k)
    assert all(len(np.unique(source.labels[rows])) <= k for rows in made.rows)


def test_one_class_per_party() -> None:
    source = source_of([0, 1, 2] * 5 + [2])
    made = partition.shards(source, 3, rng=np.random.default_rng(0), labels_per_party=1)
    assert source.labels is not None
    assert sorted(source.labels[rows[0]] for rows in made.rows) == [0, 1, 2]
    assert sorted(made.sizes.tolist()) == [5, 5, 6]


def test_small_alpha_is_skewed_and_large_alpha_is_not() -> None:
    source = source_of([label for label in range(4) for _ in range(100)])
    labels = source.labels
    assert labels is not None

    def largest_share(alpha: float) -> float:
        made = partition.dirichlet(source, 4, rng=np.random.default_rng(0), alpha=alpha)
        counts = np.array([np.bincount(labels[rows], minlength=4) for rows in made.rows])
        return float((counts.max(axis=0) / counts.sum(axis=0)).mean())

    assert largest_share(0.01) > 0.8 > largest_share(1.0) > 0.3 > largest_share(1e6)


def test_a_power_law_makes_party_0_the_largest() -> None:
    sizes = partition.quantity(source_of([0] * 50), 5, rng=np.random.default_rng(0), exponent=2.0).sizes
    assert np.all(np.diff(sizes) <= 0)
    assert sizes[0] > 2 * sizes[1]


@given(case=cases(), size=st.integers(1, 4))
def test_sample_gives_each_party_its_size(case: tuple[ArraySource, int, int], size: int) -> None:
    source, _, seed = case
    made = partition.sample(source, 100, rng=np.random.default_rng(seed), size=size)
    assert made.sizes.tolist() == [size] * 100


def test_sample_draws_with_replacement() -> None:
    made = partition.sample(source_of([0] * 4), 3, rng=np.random.default_rng(0), size=9)
    assert all(len(set(rows.tolist())) <= 4 < len(rows) for rows in made.rows)


def test_natural_parties_are_the_groups_in_order() -> None:
    groups = np.array([30, 10, 20, 10, 30, 30])
    source = ArraySource(np.zeros((6, 1)), np.zeros(6, int), groups)
    made = partition.natural(source, 3, rng=np.random.default_rng(5))
    assert [rows.tolist() for rows in made.rows] == [[1, 3], [2], [0, 4, 5]]


@given(st.lists(st.integers(-5, 5), min_size=1), st.integers(1, 11), st.integers(0, 2**32))
def test_natural_keeps_groups_whole(groups: list[int], parties: int, seed: int) -> None:
    n = len(groups)
    source = ArraySource(np.zeros((n, 1)), np.zeros(n, int), np.array(groups))
    if parties > len(set(groups)):
        with pytest.raises(DataError, match=f"{len(set(groups))} groups"):
            partition.natural(source, parties, rng=np.random.default_rng(seed))
        return
    made = partition.natural(source, parties, rng=np.random.default_rng(seed))
    held = [set(np.array(groups)[rows]) for rows in made.rows]
    assert sum(len(one) for one in held) == len(set(groups))
    assert made.sizes.min() >= 1
    assert made.sizes.sum() == n


@given(case=cases())
def test_features_are_owned_exactly_once_and_rows_by_all(case: tuple[ArraySource, int, int]) -> None:
    source, parties, seed = case
    made = partition.features(source, parties, rng=np.random.default_rng(seed))
    assert made.columns is not None
    np.testing.assert_array_equal(np.sort(np.concatenate(made.columns)), np.arange(len(source) + 1))
    assert np.ptp([len(columns) for columns in made.columns]) <= 1
    assert made.sizes.tolist() == [len(source)] * parties


@pytest.mark.parametrize("name", ["shuffle", "dirichlet 0.1", "shards", "quantity alpha", "natural"])
def test_more_parties_than_samples_are_refused_with_the_numbers(name: str) -> None:
    with pytest.raises(DataError, match=r"4 parties.*3|12 labels|3 groups"):
        ALL[name](source_of([0, 1, 2]), 4, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("parties", [0, -1])
def test_fewer_than_one_party_is_refused(name: str, parties: int) -> None:
    with pytest.raises(DataError, match="at least 1"):
        ALL[name](source_of([0, 1, 2, 3]), parties, rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", COVERING)
def test_as_many_parties_as_samples(name: str) -> None:
    source = source_of([0, 1, 2, 0])
    make = partial(partition.shards, labels_per_party=1) if name == "shards" else COVERING[name]
    assert make(source, 4, rng=np.random.default_rng(0)).sizes.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("make", "options", "says"),
    [
        (partition.dirichlet, {"alpha": 0.0}, "alpha=0.0"),
        (partition.dirichlet, {"alpha": float("nan")}, "alpha=nan"),
        (partition.dirichlet, {"alpha": 1.0, "min_samples": 0}, "no party may be empty"),
        (partition.dirichlet, {"alpha": 1.0, "min_samples": 3}, "need 6"),
        (partition.quantity, {}, "one of the two"),
        (partition.quantity, {"alpha": 1.0, "exponent": 1.0}, "one of the two"),
        (partition.quantity, {"exponent": -1.0}, "exponent=-1.0"),
        (partition.sample, {"size": 0}, "size=0"),
        (partition.shards, {"labels_per_party": 0}, "at least 1"),
        (partition.shards, {"labels_per_party": 3}, "need 6"),
    ],
)
def test_options_that_cannot_be_used_are_named(make: Make, options: dict[str, float], says: str) -> None:
    with pytest.raises(DataError, match=says):
        make(source_of([0, 1, 0, 1]), 2, rng=np.random.default_rng(0), **options)


def test_what_a_source_lacks_is_named() -> None:
    source = ArraySource(np.zeros((4, 1)), np.zeros(4))
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="dirichlet needs one label"):
        partition.dirichlet(source, 2, rng=rng, alpha=1.0)
    with pytest.raises(DataError, match="shards needs one label"):
        partition.shards(source, 2, rng=rng)
    with pytest.raises(DataError, match="natural needs a group"):
        partition.natural(source, 2, rng=rng)
    with pytest.raises(DataError, match="1 features"):
        partition.features(source, 2, rng=rng)


@given(
    st.lists(st.floats(0, 1e6), min_size=1).filter(lambda weights: sum(weights) > 1e-3), st.integers(0, 10**6)
)
def test_apportionment_sums_and_is_within_one(weights: list[float], total: int) -> None:
    array = np.array(weights)
    shares = apportion(array, total)
    assert shares.sum() == total
    assert shares.min() >= 0
    assert np.abs(shares - array / array.sum() * total).max() < 1 + 1e-6
