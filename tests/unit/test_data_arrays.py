"""Data sets out of .npz files and the user's functions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpc_fl.data import Dataset, from_arrays, function, npz
from hpc_fl.errors import DataError

RNG = np.random.default_rng(0)
ARRAYS: dict[str, np.ndarray] = {
    "x": RNG.standard_normal((9, 2, 3)).astype(np.float32),
    "y": np.arange(9) % 4,
    "x_test": RNG.standard_normal((5, 2, 3)).astype(np.float32),
    "y_test": np.arange(5) % 3,
}
FOUR = tuple(ARRAYS.values())


def saved(folder: Path, compressed: bool = False, **change: Any) -> Path:
    path = folder / "mine.npz"
    (np.savez_compressed if compressed else np.savez)(path, **(ARRAYS | change))
    return path


def check(data: Dataset) -> None:
    assert data.classes == 4
    for part, x, y in ((data.train, "x", "y"), (data.test, "x_test", "y_test")):
        found = part.rows(np.arange(len(part)))
        np.testing.assert_array_equal(found[0], ARRAYS[x])
        np.testing.assert_array_equal(found[1], ARRAYS[y])


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_gives_back_what_was_saved(tmp_path: Path, compressed: bool) -> None:
    groups = np.arange(9) // 3
    data = npz(saved(tmp_path, compressed, groups=groups))
    assert data.name == "mine"
    check(data)
    np.testing.assert_array_equal(data.train.groups, groups)


def test_npz_in_fortran_order_gives_back_what_was_saved(tmp_path: Path) -> None:
    check(npz(saved(tmp_path, x=np.asfortranarray(ARRAYS["x"]))))


def test_npz_maps_uncompressed_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    monkeypatch.setattr(np.lib.format, "read_array", None)
    check(npz(path))


@pytest.mark.parametrize("name", ARRAYS)
def test_npz_names_a_missing_array(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in ARRAYS.items() if key != name})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"has no {name}:"):
        npz(path)


def test_npz_never_unpickles(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.array([{"a": 1}] * 9, object))
    with pytest.raises(DataError, match="arrays of numbers"):
        npz(path)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_npz_refuses_a_truncated_file(tmp_path: Path, compressed: bool, share: float) -> None:
    path = saved(tmp_path, compressed)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"mine\.npz"):
        npz(path)


def test_npz_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        npz(tmp_path / "none.npz")


def test_npz_takes_the_number_of_classes(tmp_path: Path) -> None:
    assert npz(saved(tmp_path), classes=7).classes == 7
    with pytest.raises(DataError, match="label 3"):
        npz(saved(tmp_path), classes=3)


def test_functions_may_return_arrays_tensors_or_a_data_set() -> None:
    check(function(lambda: FOUR, {}))
    check(function(lambda: tuple(torch.from_numpy(array) for array in FOUR), {}))
    data = from_arrays("own", *FOUR)
    assert function(lambda: data, {}) is data
    assert function(lambda classes: from_arrays("own", *FOUR, classes=classes), {"classes": 6}).classes == 6


def test_a_function_that_fails_fails_as_it_is() -> None:
    def fails() -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        function(fails, {})


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "returned NoneType"),
        (FOUR[:3], "returned tuple"),
        (list(FOUR), "returned list"),
        (([1, 2], *FOUR[1:]), "returned x as list"),
        ((*FOUR[:3], torch.ones(5, requires_grad=True)), r"use y_test\.detach\(\)\.cpu\(\)"),
        ((FOUR[0].astype(np.uint8), *FOUR[1:]), "images / 255"),
    ],
)
def test_anything_else_from_a_function_is_refused(made: object, says: str) -> None:
    with pytest.raises(DataError, match=says):
        function(lambda: made, {})


def test_classes_are_read_off() -> None:
    x, y, x_test, y_test = FOUR
    tokens = np.arange(18).reshape(9, 2)
    assert from_arrays("d", tokens, tokens + 1, tokens[:5], tokens[:5]).classes == 19
    assert from_arrays("d", x, y.astype(float), x_test, y_test.astype(float)).classes is None
    with pytest.raises(DataError, match="same dtype"):
        from_arrays("d", x, y, x_test, y_test.astype(float))
    with pytest.raises(DataError, match=r"labels are \(n,\)"):
        from_arrays("d", x, y[:, None], x_test, y_test[:, None])
    with pytest.raises(DataError, match="leave classes out"):
        from_arrays("d", x, y.astype(float), x_test, y_test.astype(float), classes=4)
