"""MNIST, and data sets in its files' format: 60,000 and 10,000 grey images of 28x28 (LeCun, Cortes, Burges
1998).
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from hpc_fl.data.files import Bytes, check_md5, find_file, map_bytes, pixels
from hpc_fl.data.source import ArraySource, Dataset
from hpc_fl.errors import DataError

_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FROM = "https://ossci-datasets.s3.amazonaws.com/mnist/"


def mnist(root: str | Path, *, verify: bool = True) -> Dataset:
    """x: (n, 1, 28, 28) float32 in [0, 1]; y: 10 classes.

    root: the folder of the four published files, each as it is (then memory-mapped: ranks of a host share it,
    and only the rows asked for are read) or gzipped (then held in memory unpacked, 55 MB a rank). verify:
    check MD5 sums; set it to False for other data in the same format. Raises DataError naming the file where
    one is missing, damaged or truncated.
    """
    root = Path(root)
    return Dataset("mnist", _part(root, "train", verify), _part(root, "t10k", verify), classes=10)


def _part(root: Path, prefix: str, verify: bool) -> ArraySource:
    images = _idx(root, f"{prefix}-images-idx3-ubyte", 3, verify)
    labels = _idx(root, f"{prefix}-labels-idx1-ubyte", 1, verify)
    return ArraySource(images[:, None], labels, transform=pixels)


def _idx(root: Path, name: str, dimensions: int, verify: bool) -> Bytes:
    """An IDX file of unsigned bytes: 0, 0, 8, dimensions, then each size as a big-endian int32, then the
    data.
    """
    path = find_file(root, (name, f"{name}.gz"), _FROM)
    if verify:
        check_md5(path, _MD5[path.name])
    content = _gunzip(path) if path.suffix == ".gz" else map_bytes(path)
    start = 4 + 4 * dimensions
    if content[:4].tolist() != [0, 0, 8, dimensions] or len(content) < start:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions: get it anew"
        )
    shape = tuple(int(size) for size in np.frombuffer(content[4:start].tobytes(), ">i4"))
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise DataError(f"{path} has {len(content)} bytes where its header says {expected}: get it anew")
    return content[start:].reshape(shape)


def _gunzip(path: Path) -> Bytes:
    try:
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}): get it anew") from error
