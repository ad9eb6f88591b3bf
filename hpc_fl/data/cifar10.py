"""CIFAR-10, binary version: 50,000 and 10,000 colour images of 3x32x32 in 10 classes (Krizhevsky 2009)."""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from hpc_fl.data.files import Bytes, check_md5, find_file, map_bytes, pixels
from hpc_fl.data.source import Array, ArraySource, ConcatSource, Dataset, Float32Array
from hpc_fl.errors import DataError

_FOLDER = "cifar-10-batches-bin"
_ARCHIVE = "cifar-10-binary.tar.gz"
_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    _ARCHIVE: "c32a1d4ab5d03f1284b67883e8d87530",
}
_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST = "test_batch.bin"
_RECORD = 1 + 3 * 32 * 32
_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
_DEVIATION = np.array([0.2470, 0.2435, 0.2616], np.float32)[:, None, None]


def cifar10(root: str | Path, *, verify: bool = True) -> Dataset:
    """x: (n, 3, 32, 32) float32, each channel of mean 0 and deviation 1 over the training part; y: 10
    classes.

    root: the folder that holds cifar-10-batches-bin/ (data_batch_1.bin ... test_batch.bin: memory-mapped,
    ranks of a host share them, and only the rows asked for are read) or cifar-10-binary.tar.gz (held in
    memory unpacked, 184 MB a rank). verify: check MD5 sums. Raises DataError naming the file where one is
    missing, damaged or truncated.
    """
    root = Path(root)
    contents = _mapped(root, verify) if (root / _FOLDER).is_dir() else _unpacked(root, verify)
    parts = {name: _records(name, content) for name, content in contents.items()}
    return Dataset("cifar10", ConcatSource([parts[name] for name in _TRAIN]), parts[_TEST], classes=10)


def _mapped(root: Path, verify: bool) -> dict[str, Bytes]:
    contents = {}
    for name in (*_TRAIN, _TEST):
        path = find_file(
            root / _FOLDER, (name,), f"{_ARCHIVE} of https://www.cs.toronto.edu/~kriz/cifar.html"
        )
        if verify:
            check_md5(path, _MD5[name])
        contents[name] = map_bytes(path)
    return contents


def _unpacked(root: Path, verify: bool) -> dict[str, Bytes]:
    wanted = (f"{_FOLDER}/{_TRAIN[0]}", _ARCHIVE)
    path = find_file(root, wanted, "https://www.cs.toronto.edu/~kriz/cifar.html (binary version)")
    if verify:
        check_md5(path, _MD5[_ARCHIVE])
    contents = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    contents[Path(member.name).name] = np.frombuffer(file.read(), np.uint8)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}): get it anew") from error
    missing = {*_TRAIN, _TEST} - contents.keys()
    if missing:
        raise DataError(f"{path} has no {', '.join(sorted(missing))}: get the binary version of CIFAR-10")
    return {name: contents[name] for name in (*_TRAIN, _TEST)}


def _records(name: str, content: Bytes) -> ArraySource:
    """Records of one label byte and 3,072 pixel bytes (red, green, blue planes)."""
    if len(content) == 0 or len(content) % _RECORD:
        raise DataError(
            f"{name} has {len(content)} bytes, no multiple of {_RECORD} (label and pixels): get it anew"
        )
    records = content.reshape(-1, _RECORD)
    return ArraySource(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], transform=_standardised)


def _standardised(images: Array) -> Float32Array:
    x = pixels(images)
    x -= _MEAN
    x /= _DEVIATION
    return x
