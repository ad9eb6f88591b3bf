"""Laws of the data sets that scikit-learn carries."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from hpc_fl.data import Dataset, breast_cancer, digits, embedded
from hpc_fl.data.split import stratified_split
from hpc_fl.errors import DataError


def everything(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    parts = [part.rows(np.arange(len(part))) for part in (data.train, data.test)]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def test_digits() -> None:
    data = digits()
    x, y = everything(data)
    assert (len(data.train), len(data.test), data.classes) == (1437, 360, 10)
    assert x.shape == (1797, 1, 8, 8)
    assert x.dtype == np.float32
    assert x.min() == 0
    assert x.max() == 1
    assert set(y.tolist()) == set(range(10))


def test_breast_cancer_is_standardised_by_its_training_part() -> None:
    data = breast_cancer()
    assert (len(data.train), len(data.test), data.classes) == (455, 114, 2)
    x, _ = data.train.rows(np.arange(455))
    assert x.shape == (455, 30)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-5)
    test, _ = data.test.rows(np.arange(114))
    assert np.abs(test.mean(axis=0)).max() > 1e-3


@pytest.mark.parametrize("make", [digits, breast_cancer])
def test_the_split_is_stratified_and_always_the_same(make: type) -> None:
    first, second = make(), make()
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(first, part).labels, getattr(second, part).labels)
    train, test = first.train.labels, first.test.labels
    share = len(test) / (len(train) + len(test))
    counts = np.bincount(train) + np.bincount(test)
    assert np.all(np.abs(np.bincount(test) - share * counts) <= 1)


def test_a_split_covers_each_sample_once() -> None:
    labels = np.array([0] * 7 + [1] * 5 + [2])
    train, test = stratified_split(labels, 4)
    assert len(test) == 4
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(13))


@pytest.mark.parametrize("holdout", [0, -1, 1797, 5000])
def test_a_split_without_one_part_is_refused(holdout: int) -> None:
    with pytest.raises(DataError, match=r"use 1\.\.1796"):
        digits(holdout=holdout)


@pytest.mark.parametrize("make", [digits, breast_cancer])
def test_the_file_and_the_public_function_agree(
    make: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_file = everything(make())
    spec = ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(embedded, "find_spec", lambda _: spec)
    by_function = everything(make())
    for one, other in zip(by_file, by_function, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        digits()


def test_nothing_slow_is_imported_to_read_digits() -> None:
    program = (
        "import sys, hpc_fl.data as d; d.digits(); d.breast_cancer();"
        "print([m for m in ('torch', 'sklearn', 'matplotlib', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
