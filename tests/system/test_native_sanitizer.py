"""The CPU kernels touch only their arrays, whatever a peer sends: run under the address sanitizer."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCES = TESTS.parent / "kernels" / "cpu"
FLAGS = ("-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
TIME_LIMIT = 300.0


def build(folder: Path, sources: Path = SOURCES) -> Path:
    library = folder / "_cpu.so"
    files = sorted(map(str, sources.glob("*.cpp")))
    subprocess.run(["g++", *FLAGS, *SANITIZERS, *files, "-o", str(library)], check=True, timeout=TIME_LIMIT)
    return library


def run(library: Path, flips: int) -> "subprocess.CompletedProcess[str]":
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True, timeout=TIME_LIMIT
    ).stdout.strip()
    env = os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    command = [sys.executable, str(TESTS / "system" / "sanitized.py"), str(library), str(flips)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=TIME_LIMIT)


@pytest.fixture
def compiler(need: Callable[[object, str], None]) -> None:
    need(shutil.which("g++"), "g++")


@pytest.mark.usefixtures("compiler")
def test_no_kernel_leaves_its_arrays(tmp_path: Path) -> None:
    done = run(build(tmp_path), 100)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) > 700, "hardly any of the altered payloads was refused"


@pytest.mark.usefixtures("compiler")
def test_a_step_too_far_is_found(tmp_path: Path) -> None:
    sources = tmp_path / "cpu"
    shutil.copytree(SOURCES, sources)
    wrong = sources / "sparse.cpp"
    text = wrong.read_text()
    assert "indices[j] < n;" in text
    wrong.write_text(text.replace("indices[j] < n;", "indices[j] <= n;"))
    done = run(build(tmp_path, sources), 0)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
