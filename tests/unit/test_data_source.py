"""Laws of sources: only the rows asked for, in order, as float32 or int64 copies."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl.data import ArraySource, ConcatSource, Dataset
from hpc_fl.errors import DataError

X = np.arange(24, dtype=np.float64).reshape(6, 2, 2)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)


@given(st.lists(st.integers(0, 5)))
def test_rows_are_the_rows_asked_for_in_order(indices: list[int]) -> None:
    x, y = ArraySource(X, Y).rows(np.array(indices, np.int64))
    assert x.shape == (len(indices), 2, 2)
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(x, X[indices])
    np.testing.assert_array_equal(y, Y[indices])


@given(st.lists(st.integers(0, 5)), st.integers(1, 5))
def test_parts_in_order_are_the_whole(indices: list[int], cut: int) -> None:
    groups = np.arange(6) // 2
    whole = ArraySource(X, Y, groups)
    parts = ConcatSource(
        [ArraySource(X[:cut], Y[:cut], groups[:cut]), ArraySource(X[cut:], Y[cut:], groups[cut:])]
    )
    assert len(parts) == len(whole)
    assert parts.shape == whole.shape
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.groups, whole.groups)
    for found, wanted in zip(
        parts.rows(np.array(indices, np.int64)), whole.rows(np.array(indices)), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype


def test_rows_are_copies() -> None:
    original = X.astype(np.float32)
    x, _ = ArraySource(original, Y).rows(np.arange(6))
    x[:] = -1
    np.testing.assert_array_equal(original, X)


def test_a_memory_map_stays_one_until_rows_are_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    x, _ = ArraySource(mapped, Y).rows(np.array([5, 0]))
    assert not isinstance(x, np.memmap)
    np.testing.assert_array_equal(x, X[[5, 0]])


@pytest.mark.parametrize("indices", [[-1], [6], [0, 99]])
@pytest.mark.parametrize("source", [ArraySource(X, Y), ConcatSource([ArraySource(X, Y)])])
def test_rows_that_do_not_exist_are_refused(source: ArraySource, indices: list[int]) -> None:
    with pytest.raises(DataError, match=r"rows 0\.\.5"):
        source.rows(np.array(indices))


def test_targets_get_the_shape_of_a_models_output() -> None:
    source = ArraySource(X, np.linspace(0, 1, 6))
    assert source.labels is None
    _, y = source.rows(np.array([3, 1]))
    assert y.shape == (2, 1)
    assert y.dtype == np.float32


def test_tokens_are_int64_and_have_no_labels() -> None:
    source = ArraySource(np.ones((6, 4), np.int32), np.ones((6, 4), np.int32))
    x, y = source.rows(np.arange(2))
    assert x.dtype == y.dtype == np.int64
    assert source.labels is None


@pytest.mark.parametrize(
    ("x", "y", "groups", "says"),
    [
        (X, Y[:5], None, "one row per sample"),
        (X[:, 0, 0], Y, None, r"reshape\(-1, 1\)"),
        (X.astype(np.uint8), Y, None, "images / 255"),
        (X.astype(np.complex64), Y, None, "complex64"),
        (X, Y.astype("U"), None, "labels or tokens as int64"),
        (X, Y - 1, None, "negative"),
        (X, Y, Y[:5], "groups"),
        (X, Y, X[:, 0, 0], "groups"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        ArraySource(x, y, groups)


def test_a_data_set_whose_parts_do_not_fit_is_refused() -> None:
    source, empty = ArraySource(X, Y), ArraySource(X[:0], Y[:0])
    with pytest.raises(DataError, match="in train and"):
        Dataset("d", source, ArraySource(X.reshape(6, 4), Y), 3)
    with pytest.raises(DataError, match="label 2 in train"):
        Dataset("d", source, source, 2)
    with pytest.raises(DataError, match="test part has no samples"):
        Dataset("d", source, empty, 3)
    with pytest.raises(DataError, match="one sample shape"):
        ConcatSource([source, ArraySource(X.reshape(6, 4), Y)])
