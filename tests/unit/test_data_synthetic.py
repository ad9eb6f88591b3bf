"""Laws of synthetic data: a row depends on seed, part and number only; a model can learn it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl import counter
from hpc_fl.data import synthetic
from hpc_fl.data.source import Dataset
from hpc_fl.data.synthetic import TaskName
from hpc_fl.errors import DataError

N = 3000


def make(task: TaskName, seed: int = 3, noise: float | None = None) -> Dataset:
    shape = (16,) if task == "tokens" else (5, 7)
    classes = None if task == "regression" else 10
    return synthetic(
        samples=N, shape=shape, classes=classes, test_samples=N, seed=seed, task=task, noise=noise
    )


TASKS: list[TaskName] = ["classification", "tokens", "regression"]
DATA = {task: make(task) for task in TASKS}
ALL = {task: data.train.rows(np.arange(N)) for task, data in DATA.items()}


@pytest.mark.parametrize("task", TASKS)
@given(indices=st.lists(st.integers(0, N - 1), max_size=30))
def test_a_row_is_the_same_whichever_rows_are_asked_for_with_it(task: TaskName, indices: list[int]) -> None:
    x, y = DATA[task].train.rows(np.array(indices, np.int64))
    np.testing.assert_array_equal(x, ALL[task][0][indices])
    np.testing.assert_array_equal(y, ALL[task][1][indices])


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_makes_the_data(task: TaskName) -> None:
    again, other = make(task), make(task, seed=4)
    np.testing.assert_array_equal(again.train.rows(np.arange(9))[0], ALL[task][0][:9])
    assert not np.array_equal(other.train.rows(np.arange(9))[0], ALL[task][0][:9])
    assert not np.array_equal(again.test.rows(np.arange(9))[0], ALL[task][0][:9])


def test_labels_are_known_without_the_rows_and_agree_with_them() -> None:
    np.testing.assert_array_equal(DATA["classification"].train.labels, ALL["classification"][1])
    assert np.bincount(ALL["classification"][1]).min() > 0.8 * N / 10
    assert DATA["tokens"].train.labels is None
    assert DATA["regression"].train.labels is None


def test_the_nearest_class_mean_classifies_the_test_part() -> None:
    x, y = ALL["classification"]
    means = np.stack([x[y == label].mean(axis=0) for label in range(10)]).reshape(10, -1)
    test, truth = DATA["classification"].test.rows(np.arange(N))
    distances = ((test.reshape(N, 1, -1) - means) ** 2).sum(axis=-1)
    assert 0.7 < (distances.argmin(axis=1) == truth).mean() < 0.99


def test_without_noise_a_sample_is_the_mean_of_its_class() -> None:
    data = make("classification", noise=0.0)
    x, y = data.train.rows(np.arange(200))
    for label in range(10):
        assert np.ptp(x[y == label], axis=0).max() == 0


def test_a_token_has_four_successors_and_targets_are_moved_by_one() -> None:
    x, y = ALL["tokens"]
    assert x.dtype == y.dtype == np.int64
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    for token in range(10):
        assert len(np.unique(y[x == token])) <= 4


def test_noisy_tokens_are_followed_by_any() -> None:
    x, y = make("tokens", noise=1.0).train.rows(np.arange(N))
    assert all(len(np.unique(y[x == token])) == 10 for token in range(10))


def test_least_squares_solves_the_regression_up_to_its_noise() -> None:
    x, y = ALL["regression"]
    assert y.shape == (N, 1)
    assert y.dtype == np.float32
    weights, *_ = np.linalg.lstsq(x.reshape(N, -1), y, rcond=None)
    test, truth = DATA["regression"].test.rows(np.arange(N))
    assert 0.08 < (test.reshape(N, -1) @ weights - truth).std() < 0.12
    assert 0.5 < truth.std() < 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": 0}, "samples=0"),
        ({"test_samples": 0}, "test_samples=0"),
        ({"shape": ()}, "shape"),
        ({"shape": (3, 0)}, "shape"),
        ({"classes": 1}, "at least 2 classes"),
        ({"classes": None}, "at least 2 classes"),
        ({"noise": -0.1}, "noise"),
        ({"task": "tokens"}, r"shape \[length\]"),
        ({"task": "tokens", "shape": (4,), "noise": 1.5}, "noise"),
        ({"task": "regression"}, "leave classes out"),
        ({"task": "ranking"}, "use one of classification"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(change: dict[str, object], says: str) -> None:
    arguments: dict[str, object] = {"samples": 5, "shape": (2, 2), "classes": 3, "test_samples": 5, **change}
    with pytest.raises(DataError, match=says):
        synthetic(**arguments)  # type: ignore[arg-type]


def test_counter_based_numbers_are_uniform_and_normal() -> None:
    rows = np.arange(2000)
    uniform = counter.below(16, counter.key(0, 1), rows, 50)
    assert np.abs(np.bincount(uniform.ravel(), minlength=16) / 6250 - 1).max() < 0.06
    normal = counter.normal(counter.key(0, 2), rows, 50).astype(np.float64)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.var() - 1) < 0.02
    assert abs(np.corrcoef(normal[:, 0], normal[:, 1])[0, 1]) < 0.1
    assert abs(np.corrcoef(normal[:-1, 0], normal[1:, 0])[0, 1]) < 0.1


@given(st.integers(-(2**70), 2**70), st.integers(0, 5), st.integers(0, 5))
def test_keys_differ_by_path(seed: int, first: int, second: int) -> None:
    assert counter.key(seed, first, second) == counter.key(seed, first, second)
    assert counter.key(seed, first, second) != counter.key(seed, second + 1, first + 7)
