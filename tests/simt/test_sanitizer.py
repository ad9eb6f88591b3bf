"""The kernels touch only their arrays: run under the address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from laws.kernels import HOSTILE, LAWS
from simt.interpreter import SOURCES, Interpreter, Order, build
from simt.subject import subject_on

TESTS = Path(__file__).parents[1]


def run_laws(folder: Path, laws: list[str]) -> None:
    """In a process that has loaded the sanitizers."""
    subject = subject_on(Interpreter(folder, Order.SHUFFLED, exact=True))
    for law in laws:
        for n in (9, 5003):  # less than a tile; and whole tiles, which have a path of their own
            LAWS[law](subject, n)
        if law in HOSTILE:
            HOSTILE[law](subject)


def run_sanitized(folder: Path, laws: Iterable[str]) -> "subprocess.CompletedProcess[str]":
    compiler = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(compiler, capture_output=True, text=True, check=True).stdout.strip()
    env = {
        **os.environ,
        "LD_PRELOAD": library,
        # Python's own leaks; and stacks of fibers are not what that check takes them for.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    command = [sys.executable, __file__, str(folder), *laws]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_no_kernel_leaves_its_arrays(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    need(shutil.which("g++"), "g++")
    build(tmp_path, sanitize=True)
    done = run_sanitized(tmp_path, LAWS)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x[q] = i + q < n ? p[i + q]", "x[q] = i + q <= n ? p[i + q]"),
        ("const bool fast = base + TILE <= n &&", "const bool fast = base < n &&"),
        ("aligned(g, 16) && ", ""),
    ],
)
def test_a_step_too_far_is_found(
    tmp_path: Path, need: Callable[[object, str], None], old: str, new: str
) -> None:
    need(shutil.which("g++"), "g++")
    changed = 0
    for name in ("common.cuh", "threshold.cu"):
        text = (SOURCES / name).read_text()
        changed += text.count(old)
        (tmp_path / name).write_text(text.replace(old, new))
    assert changed == 1, "the place is not what it was: choose it again"
    build(tmp_path, ("threshold",), sources=tmp_path, sanitize=True)
    done = run_sanitized(tmp_path, ["threshold"])
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr or "runtime error" in done.stderr


if __name__ == "__main__":
    run_laws(Path(sys.argv[1]), sys.argv[2:])
