"""Orders and batches: every sample once an epoch, whoever else is planned."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpc_fl.counter import extend_keys, key
from hpc_fl.training.batches import LocalSteps, plan_batches
from hpc_fl.training.seeding import permutations

COUNTS = st.lists(st.integers(0, 23), min_size=1, max_size=6).filter(any)


def seen(plan_rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[list[int]]:
    return [rows[:size].tolist() for rows, size in zip(plan_rows, sizes, strict=True) if size]


@given(COUNTS, st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**62))
def test_an_epoch_visits_every_sample_once(counts: list[int], batch: int, epochs: int, seed: int) -> None:
    plan = plan_batches(LocalSteps(batch, epochs), np.array(counts), range(len(counts)), seed, 3)
    for party, count in enumerate(counts):
        batches = seen(plan.rows[:, party], plan.sizes[:, party])
        per_epoch = -(-count // batch)
        assert len(batches) == plan.steps[party] == epochs * per_epoch
        for epoch in range(epochs):
            drawn = [row for rows in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for row in rows]
            assert sorted(drawn) == list(range(count))
        assert all(len(rows) == batch for i, rows in enumerate(batches) if i % per_epoch != per_epoch - 1)


@given(COUNTS, st.integers(1, 9), st.integers(1, 20))
def test_so_many_steps_are_taken_over_as_many_epochs_as_needed(
    counts: list[int], batch: int, steps: int
) -> None:
    plan = plan_batches(LocalSteps(batch, steps=steps), np.array(counts), range(len(counts)), 0, 0)
    for party, count in enumerate(counts):
        batches = seen(plan.rows[:, party], plan.sizes[:, party])
        assert len(batches) == (steps if count else 0)
        assert all(0 <= row < count for rows in batches for row in rows)


@given(COUNTS, st.integers(1, 9), st.integers(0, 5))
def test_a_partys_batches_do_not_depend_on_the_others(counts: list[int], batch: int, round_: int) -> None:
    work = LocalSteps(batch, 2)
    together = plan_batches(work, np.array(counts), range(len(counts)), 5, round_)
    for party, count in enumerate(counts):
        alone = plan_batches(work, np.array([count]), [party], 5, round_)
        assert seen(alone.rows[:, 0], alone.sizes[:, 0]) == seen(
            together.rows[:, party], together.sizes[:, party]
        )


@given(COUNTS, st.integers(1, 9))
def test_the_weights_of_a_batch_make_its_mean(counts: list[int], batch: int) -> None:
    plan = plan_batches(LocalSteps(batch, 2), np.array(counts), range(len(counts)), 0, 0)
    real = np.arange(plan.rows.shape[2]) < plan.sizes[:, :, None]
    np.testing.assert_array_equal(plan.weights > 0, real)
    np.testing.assert_allclose(plan.weights.sum(2), plan.sizes > 0, rtol=1e-6)


def test_the_whole_of_the_data_is_one_batch() -> None:
    plan = plan_batches(LocalSteps(None, 2), np.array([3, 7]), [0, 1], 0, 0)
    assert plan.sizes.tolist() == [[3, 7], [3, 7]]


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    plan = plan_batches(LocalSteps(100), np.array([5]), [0], 0, 0)
    assert plan.sizes.tolist() == [[5]]
    assert sorted(plan.rows[0, 0].tolist()) == [0, 1, 2, 3, 4]


def test_rounds_parties_and_epochs_have_different_orders() -> None:
    orders = {
        tuple(plan_batches(LocalSteps(None, 2), np.array([50]), [party], seed, round_).rows[epoch, 0])
        for party in (0, 1)
        for seed in (0, 1)
        for round_ in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 16


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**31), min_size=1, max_size=5))
def test_array_keys_are_the_scalar_keys(first: int, names: list[int]) -> None:
    base = np.array(key(first), dtype=np.uint64)
    assert extend_keys(base, np.array(names)).tolist() == [key(first, name) for name in names]


def test_permutations_are_uniform() -> None:
    keys = np.arange(6000, dtype=np.uint64)
    drawn = permutations(keys, np.full(6000, 3))
    _, times = np.unique(drawn, axis=0, return_counts=True)
    assert len(times) == 6
    # 1,000 expected of each, standard deviation 29: five of them.
    assert abs(times - 1000).max() < 145
