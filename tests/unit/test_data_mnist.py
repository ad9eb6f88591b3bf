"""MNIST's files: laws on small IDX files, and one clear error for each way in which they can be wrong."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from hpc_fl.data import files, mnist
from hpc_fl.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10
FILES = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES[:5],
    "t10k-labels-idx1-ubyte": LABELS[:5],
}


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}i", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    for name, array in FILES.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    for name, array in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path


@pytest.mark.parametrize("folder", ["plain", "zipped"])
def test_the_bytes_in_the_files_come_out(folder: str, request: pytest.FixtureRequest) -> None:
    data = mnist(request.getfixturevalue(folder), verify=False)
    x, y = data.train.rows(np.array([11, 0]))
    assert x.shape == (2, 1, 28, 28)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x[:, 0], IMAGES[[11, 0]] / 255, rtol=1e-6)
    np.testing.assert_array_equal(y, LABELS[[11, 0]])
    np.testing.assert_array_equal(data.test.labels, LABELS[:5])
    assert (len(data.train), len(data.test), data.classes) == (12, 5, 10)


def test_files_that_are_not_the_published_ones_are_refused(plain: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.* MD5 .*verify=false"):
        mnist(plain)


def test_the_published_sum_is_accepted_and_any_change_is_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"published")
    published = hashlib.md5(b"published").hexdigest()
    files.check_md5(path, published)
    path.write_bytes(b"Published")
    with pytest.raises(DataError, match=published):
        files.check_md5(path, published)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_its_folder(plain: Path, name: str) -> None:
    (plain / name).unlink()
    with pytest.raises(DataError) as caught:
        mnist(plain, verify=False)
    assert name in str(caught.value)
    assert str(plain) in str(caught.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [-1, +1, "empty", "header"])
def test_a_truncated_or_longer_file_is_named(plain: Path, name: str, change: int | str) -> None:
    content = (plain / name).read_bytes()
    changed = {-1: content[:-1], +1: content + b"0", "empty": b"", "header": content[:6]}[change]
    (plain / name).write_bytes(changed)
    with pytest.raises(DataError, match=name):
        mnist(plain, verify=False)


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_truncated_archive_is_named(zipped: Path, keep: int) -> None:
    path = zipped / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=path.name):
        mnist(zipped, verify=False)


def test_an_altered_archive_is_named(zipped: Path) -> None:
    path = zipped / "train-labels-idx1-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        mnist(zipped, verify=False)


def test_another_file_format_is_refused(plain: Path) -> None:
    (plain / "train-images-idx3-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(DataError, match="not an IDX file"):
        mnist(plain, verify=False)


def test_images_and_labels_of_different_numbers_are_refused(plain: Path) -> None:
    (plain / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:11]))
    with pytest.raises(DataError, match="one row per sample"):
        mnist(plain, verify=False)
