"""Ranks sign in and out with files, in real processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpc_fl.comm.rollcall import ROLL_FOLDER, RollCall, named, sign_in
from hpc_fl.errors import TransportError


def rank(folder: Path, number: int, last: str) -> int:
    """A process that signs in and then runs `last`; its exit code."""
    program = f"import os, sys\nfrom hpc_fl.comm.rollcall import sign_in\nsign_in({number})\n{last}"
    env = {ROLL_FOLDER: str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=False)
    return done.returncode


@pytest.mark.parametrize(
    ("last", "code", "in_order"),
    [
        ("", 0, True),
        ("sys.exit(75)", 75, True),
        ("1 / 0", 1, True),
        ("sign_in(0)", 0, True),
        ("os._exit(0)", 0, False),
        ("os.kill(os.getpid(), 9)", -9, False),
        ("if os.fork() == 0: sys.exit(0)\nos.wait(); os._exit(0)", 0, False),
    ],
    ids=["end", "exit", "exception", "twice", "_exit", "killed", "a child's end"],
)
def test_who_comes_to_its_end_signs_out(tmp_path: Path, last: str, code: int, in_order: bool) -> None:
    roll = RollCall(tmp_path, 1)
    assert (roll.not_started(), roll.not_ended()) == ([0], [0])
    assert rank(tmp_path, 0, last) == code
    assert (roll.not_started(), roll.not_ended()) == ([], [] if in_order else [0])


def test_the_absent_are_named(tmp_path: Path) -> None:
    for number in (0, 2, 11):
        (tmp_path / f"in-{number}").touch()
    assert RollCall(tmp_path, 4).not_started() == [1, 3]
    assert named([3]) == "rank 3"
    assert named([1, 3]) == "ranks 1, 3"
    assert named(list(range(512))) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 504 more"


def test_nobody_asks_without_a_launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ROLL_FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    sign_in(0)
    assert not list(tmp_path.iterdir())


def test_a_launcher_that_cannot_be_told_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ROLL_FOLDER, str(tmp_path / "gone"))
    with pytest.raises(TransportError, match="--no-ulfm"):
        sign_in(0)
