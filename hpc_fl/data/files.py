"""Published data files: finding them, checking them and mapping them into memory."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpc_fl.errors import DataError

Bytes = npt.NDArray[np.uint8]


def find_file(root: Path, names: tuple[str, ...], source: str) -> Path:
    """The first of `names` that is a file under `root`; else a DataError that says what to put where."""
    for name in names:
        if (root / name).is_file():
            return root / name
    wanted = " or ".join(names)
    raise DataError(f"{wanted} is not in {root.absolute()}: get it from {source} and put it there")


def check_md5(path: Path, published: str) -> None:
    """DataError where the MD5 sum of the file is not the published one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != published:
        raise DataError(
            f"{path} is damaged or is another file: MD5 {found}, published {published}; "
            "get it anew, or set verify=false if it is meant to differ"
        )


def map_bytes(path: Path) -> Bytes:
    """The file as a read-only memory map of its bytes; DataError where it is empty, thus unmappable."""
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: get it anew")
    return np.memmap(path, np.uint8, "r")


def pixels(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Pixels 0..255 as float32 in [0, 1]."""
    scaled: npt.NDArray[np.float32] = images.astype(np.float32)
    scaled /= 255.0
    return scaled
