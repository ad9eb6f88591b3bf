"""CIFAR-10's files: laws on small files, and one clear error for each way in which they can be wrong."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from hpc_fl.data import cifar10
from hpc_fl.errors import DataError

FOLDER = "cifar-10-batches-bin"
NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
RNG = np.random.default_rng(0)
IMAGES = {name: RNG.integers(0, 256, (4, 3, 32, 32), np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(0, 10, 4, np.uint8) for name in NAMES}
MEAN = np.array([0.4914, 0.4822, 0.4465])[:, None, None]
DEVIATION = np.array([0.2470, 0.2435, 0.2616])[:, None, None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    for name in NAMES:
        records = np.column_stack([LABELS[name], IMAGES[name].reshape(4, -1)])
        (tmp_path / FOLDER / name).write_bytes(records.tobytes())
    return tmp_path


@pytest.fixture
def archive(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as made:
        made.add(folder / FOLDER, FOLDER)
    return root


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_the_bytes_in_the_files_come_out(kind: str, request: pytest.FixtureRequest) -> None:
    data = cifar10(request.getfixturevalue(kind), verify=False)
    images = np.concatenate([IMAGES[name] for name in NAMES[:-1]])
    labels = np.concatenate([LABELS[name] for name in NAMES[:-1]])
    assert (len(data.train), len(data.test), data.classes) == (20, 4, 10)
    np.testing.assert_array_equal(data.train.labels, labels)
    asked = np.array([19, 3, 4, 0])
    x, y = data.train.rows(asked)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, (images[asked] / 255 - MEAN) / DEVIATION, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y, labels[asked])
    np.testing.assert_array_equal(data.test.labels, LABELS["test_batch.bin"])


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_files_that_are_not_the_published_ones_are_refused(kind: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(DataError, match=r"MD5 .*verify=false"):
        cifar10(request.getfixturevalue(kind))


def test_missing_files_are_named_with_their_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        cifar10(tmp_path, verify=False)
    for part in ("data_batch_1.bin", "cifar-10-binary.tar.gz", str(tmp_path)):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_one_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / FOLDER / name).unlink()
    with pytest.raises(DataError, match=name):
        cifar10(folder, verify=False)


@pytest.mark.parametrize("keep", [0, 1, 3073 * 4 - 1])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    path = folder / FOLDER / NAMES[2]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=path.name):
        cifar10(folder, verify=False)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_archive_is_named(archive: Path, share: float) -> None:
    path = archive / "cifar-10-binary.tar.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=path.name):
        cifar10(archive, verify=False)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"pickled")
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as made:
        made.add(tmp_path / "data_batch_1", "cifar-10-batches-py/data_batch_1")
    with pytest.raises(DataError, match=r"has no data_batch_1\.bin"):
        cifar10(tmp_path, verify=False)


def test_a_label_beyond_nine_is_refused(folder: Path) -> None:
    path = folder / FOLDER / NAMES[0]
    path.write_bytes(bytes([10]) + path.read_bytes()[1:])
    with pytest.raises(DataError, match="label 10"):
        cifar10(folder, verify=False)
