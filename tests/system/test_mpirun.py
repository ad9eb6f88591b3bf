"""The tests of tests/parallel under mpirun, with 1 to 4 ranks."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_fl.comm.launch import environment, find_mpirun, mpirun_command
from hpc_fl.errors import ConfigError

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 300.0


def run_in_group(command: list[str], seconds: float, env: dict[str, str]) -> tuple[int, str]:
    """Run a command in a process group of its own; kill the group when it takes longer, and fail."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=ROOT, env=env, process_group=0, text=True, errors="replace",
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"still running after {seconds} s: {' '.join(command)}\n{output}")
    return process.returncode, output


ALL = ("tests/parallel",)


def of(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/parallel/test_{name}_ranks.py" for name in names)


FIVE = of("dense", "mixer", "pairwise", "reduction", "sparse", "window")
EIGHT = of("mixer", "pairwise")
"""8 ranks share 2 cores here; over threads all laws run at 8 (tests/unit)."""


@pytest.mark.parametrize(("ranks", "what"), [(1, ALL), (2, ALL), (3, ALL), (4, ALL), (5, FIVE), (8, EIGHT)])
def test_parallel_tests_pass(ranks: int, what: tuple[str, ...], need: Callable[[object, str], None]) -> None:
    try:
        find_mpirun()
    except ConfigError as error:
        need(False, str(error))
    pytest_args = ["-p", "no:cacheprovider", "-q", "-x", "--color=no"]
    program = [sys.executable, "-m", "pytest", *what, *pytest_args]
    env = environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code, output = run_in_group(mpirun_command(ranks, program), TIME_LIMIT, env)
    assert code == 0, output
    assert output.count(" passed") == ranks, output
