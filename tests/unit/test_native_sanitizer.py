"""The CPU kernels touch only their arrays, whatever a peer sends: run under the address sanitizer."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SOURCES = TESTS.parent / "kernels" / "cpu"
FLAGS = ("-std=c++17", "-O1", "-g", "-ffp-contract=off", "-fopenmp", "-fPIC")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
TIME_LIMIT = 300.0


def compiled(source: Path, folder: Path) -> Path:
    to = folder / f"{source.stem}.o"
    gxx("-c", f"-I{SOURCES}", str(source), "-o", str(to))
    return to


def linked(objects: Iterable[Path], folder: Path) -> Path:
    library = folder / "_cpu.so"
    gxx("-shared", *sorted(map(str, objects)), "-o", str(library))
    return library


def gxx(*arguments: str) -> None:
    subprocess.run(["g++", *FLAGS, *SANITIZERS, *arguments], check=True, timeout=TIME_LIMIT)


@pytest.fixture(scope="module")
def objects(need: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each source, compiled."""
    need(shutil.which("g++"), "g++")
    folder = tmp_path_factory.mktemp("objects")
    return {source.name: compiled(source, folder) for source in SOURCES.glob("*.cpp")}


def run(library: Path, flips: int) -> "subprocess.CompletedProcess[str]":
    runtime = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True, timeout=TIME_LIMIT
    ).stdout.strip()
    env = os.environ | {
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    command = [sys.executable, str(TESTS / "unit" / "sanitized.py"), str(library), str(flips)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=TIME_LIMIT)


def test_no_kernel_leaves_its_arrays(objects: dict[str, Path], tmp_path: Path) -> None:
    done = run(linked(objects.values(), tmp_path), 100)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) > 700, "hardly any of the altered payloads was refused"


def test_a_step_too_far_is_found(objects: dict[str, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "sparse.cpp"
    text = (SOURCES / wrong.name).read_text()
    assert "indices[j] < n;" in text
    wrong.write_text(text.replace("indices[j] < n;", "indices[j] <= n;"))
    done = run(linked((objects | {wrong.name: compiled(wrong, tmp_path)}).values(), tmp_path), 0)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
