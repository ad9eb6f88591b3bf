"""Files that are on the disk when a call returns, and that are known again by length and SHA-256."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hpc_fl.errors import CheckpointError

_BLOCK = 1 << 20


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing or is not what was written; the checkpoint must not be used."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file must be: `sha256` in hexadecimal, `size` in bytes."""

    sha256: str
    size: int


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """Write `chunks` one after another to `path`, wait until the disk has them, and return what was written.

    One pass: each chunk is hashed as it is written. Raises OSError.
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("wb") as handle:
        for chunk in chunks:
            handle.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    return FileRecord(digest.hexdigest(), size)


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in folder `path` (new files, renames). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(path: Path, record: FileRecord) -> None:
    """Raise DamagedError, naming the file and what is wrong, unless `path` is exactly what `record` says."""
    try:
        size = path.stat().st_size
        if size != record.size:
            raise DamagedError(f"{path.name} has {size} bytes instead of {record.size}")
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as handle:
            while block := handle.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError as error:
        raise DamagedError(f"{path.name} is missing") from error
    if digest.hexdigest() != record.sha256:
        raise DamagedError(f"{path.name} was altered: its SHA-256 is not the one in the manifest")
