"""The look-back across tiles, in states that a few blocks do not come to: many tiles before, none closed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from simt.interpreter import SOURCES, Interpreter, Order, SimtError, build

KERNEL = r"""
#include "common.cuh"

KERNEL(32)
look(u64* states, u32 tile, u64 own, u64* out) {
    const u64 before = look_back(states, tile, own);
    if (lane() == 0) out[0] = before;
}
"""
PARTIAL, PREFIX = np.uint64(1 << 62), np.uint64(2 << 62)


def compiled(folder: Path, old: str = "", new: str = "") -> Path:
    """Of common.cuh with ``old`` replaced."""
    (folder / "common.cuh").write_text((SOURCES / "common.cuh").read_text().replace(old, new))
    (folder / "look.cu").write_text(KERNEL)
    build(folder, ("look",), sources=folder)
    return folder


def finds(folder: Path, tile: int, closed: int) -> bool:
    """Whether tile's sum is right, where all tiles before it are open but ``closed``."""
    values = np.random.default_rng(tile).integers(0, 2**40, tile + 1, dtype=np.uint64) * np.uint64(2)
    sums = np.cumsum(values)
    states = values | PARTIAL
    states[closed] = sums[closed] | PREFIX
    states[:closed] |= np.uint64(1)  # what lies before a closed tile does not count
    out = np.zeros(1, np.uint64)
    try:
        args = (states, np.uint32(tile), values[tile], out)
        Interpreter(folder, Order.REVERSE).launch("look", "look", 1, 32, args)
    except SimtError:
        return False
    return bool(out[0] == sums[tile] - values[tile] and states[tile] == sums[tile] | PREFIX)


CASES = [(tile, closed) for tile in (1, 2, 31, 32, 33, 64, 65, 100) for closed in {0, tile // 2, tile - 1}]


def test_sums_of_open_and_closed_tiles(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    need(shutil.which("g++"), "g++")
    folder = compiled(tmp_path)
    assert all(finds(folder, tile, closed) for tile, closed in CASES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if (closed) break;", "break;"),
        ("__ffs(closed) - 1", "__ffs(closed)"),
        ("before += warp_sum", "before = warp_sum"),
        (": 31;", ": 30;"),
    ],
)
def test_a_mistake_is_caught(tmp_path: Path, need: Callable[[object, str], None], old: str, new: str) -> None:
    need(shutil.which("g++"), "g++")
    assert (SOURCES / "common.cuh").read_text().count(old) == 1, (
        "the place is not what it was: choose it again"
    )
    folder = compiled(tmp_path, old, new)
    assert not all(finds(folder, tile, closed) for tile, closed in CASES)
