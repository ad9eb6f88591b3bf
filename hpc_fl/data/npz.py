"""A data set from one .npz file of numpy."""

import struct
from pathlib import Path
from typing import Final
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo
from zlib import error as ZlibError  # noqa: N812 - it is an exception

import numpy as np

from hpc_fl.data.arrays import from_arrays
from hpc_fl.data.source import Array, Dataset
from hpc_fl.errors import DataError

_NEEDED: Final = ("x", "y", "x_test", "y_test")
_ADVICE: Final = "write it with np.savez(path, x=, y=, x_test=, y_test=)"
_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def npz(path: str | Path, *, classes: int | None = None) -> Dataset:
    """The arrays x, y, x_test, y_test and, optionally, groups (see from_arrays) of the file, named after the
    file.

    Arrays written by `np.savez` are memory-mapped: ranks of a host share them, and only the rows asked for
    are read; those of `np.savez_compressed` are held in memory. Never unpickles. Raises DataError where the
    file or an array is missing, damaged, or holds Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path.absolute()} is not there: {_ADVICE}")
    try:
        with ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in _NEEDED if name not in members]
            if missing:
                raise DataError(f"{path} has no {', '.join(missing)}: {_ADVICE}")
            x, y, x_test, y_test = (_array(path, archive, members[name]) for name in _NEEDED)
            groups = _array(path, archive, members["groups"]) if "groups" in members else None
    except (BadZipFile, ZlibError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path} cannot be read as arrays of numbers ({error}): write it anew") from error
    return from_arrays(path.stem, x, y, x_test, y_test, groups=groups, classes=classes)


def _array(path: Path, archive: ZipFile, info: ZipInfo) -> Array:
    with archive.open(info) as file:
        read_header = _HEADERS.get(np.lib.format.read_magic(file))
        if info.compress_type == ZIP_STORED and read_header is not None:
            shape, fortran, dtype = read_header(file)
            if not fortran and not dtype.hasobject and 0 not in shape:
                return np.memmap(path, dtype, "r", _content_start(path, info) + file.tell(), shape)
    with archive.open(info) as file:
        content: Array = np.lib.format.read_array(file, allow_pickle=False)
        return content


def _content_start(path: Path, info: ZipInfo) -> int:
    """Where a member's content starts: after its local header of 30 bytes, its name and its extra field."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return int(info.header_offset + 30 + name_length + extra_length)
