"""``bench collectives --tune`` on two ranks: for a model of n parameters, and for that of a configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpc_fl.collectives.cost import CANDIDATES

LIMIT = 120.0
CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


@pytest.mark.usefixtures("mpi")
@pytest.mark.parametrize(
    ("words", "told"), [(["n=1e6"], "1000000 parameters"), ([str(CONFIG)], "digits.yaml")]
)
def test_it_says_what_to_use_and_why(words: list[str], told: str) -> None:
    command = [sys.executable, "-m", "hpc_fl", "bench", "collectives", "--tune", *words, "-n", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    assert "2 ranks" in done.stdout
    assert all(one.codec in done.stdout for one in CANDIDATES)
    assert sum(line.startswith("use ") for line in done.stdout.splitlines()) == 1


def test_a_process_alone_is_told_what_to_do() -> None:
    command = [sys.executable, "-m", "hpc_fl", "bench", "collectives", "--tune"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 2
    assert "-n" in done.stderr
    assert "Traceback" not in done.stderr
