"""The command line: what it prints and how it ends. (Runs over ranks: tests/system.)"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def hpc_fl(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "SLURM_"))}
    return subprocess.run(
        [sys.executable, "-m", "hpc_fl", *words],
        cwd=cwd,
        env=env | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_every_command(tmp_path: Path) -> None:
    done = hpc_fl("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "doctor", "report", "data", "config", "bench"))


def test_it_tells_its_version(tmp_path: Path) -> None:
    done = hpc_fl("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"hpc-fl {version('hpc_fl')}\n")


def test_starting_needs_no_torch() -> None:
    """The launcher, --help and the check of a configuration must not wait for torch."""
    modules = "hpc_fl.cli, hpc_fl.config, hpc_fl.comm.launch"
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("launch", [[], ["-n", "4"]])
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, launch: list[str]) -> None:
    done = hpc_fl("train", *launch, "training.optimzer.lr=0.1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "training.optimzer" in done.stderr
    assert "'optimizer'" in done.stderr
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_two_configurations_are_one_too_many(tmp_path: Path) -> None:
    done = hpc_fl("train", "a.yaml", "b.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "b.yaml" in done.stderr


def test_a_dry_run_prints_configuration_and_command(tmp_path: Path) -> None:
    done = hpc_fl("train", "-n", "3", "--dry-run", "rounds=7", "--run-dir", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rounds: 7" in done.stdout
    assert "mpirun -n 3" in done.stdout
    assert done.stdout.rstrip().endswith("train rounds=7 --run-dir here")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice", ["--no-ulfm", "comm.transport=horovod"])
def test_ulfm_can_be_left_out(choice: str, tmp_path: Path) -> None:
    without = hpc_fl("train", "-n", "3", "--dry-run", choice, cwd=tmp_path).stdout
    assert "mpirun -n 3" in without
    assert "--with-ft" not in without


def test_without_n_there_is_no_ulfm_to_leave_out(tmp_path: Path) -> None:
    alone = hpc_fl("train", "--no-ulfm", cwd=tmp_path)
    assert alone.returncode == 2
    assert "--no-ulfm" in alone.stderr


def test_a_rank_that_fails_before_mpi_leaves_its_message_with_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPC_FL_REPORT_FILE", str(tmp_path / "report"))
    for _ in range(2):  # the second rank has nothing to add
        done = hpc_fl("train", "rounds=0", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, "")
    code, message = (tmp_path / "report").read_text().splitlines()
    assert code == "2"
    assert message.startswith("hpc-fl: rounds: ")


def test_the_resolved_configuration_can_be_used_again(tmp_path: Path) -> None:
    first = hpc_fl("config", "rounds=7", "strategy=fedyogi", cwd=tmp_path)
    (tmp_path / "run.yaml").write_text(first.stdout)
    again = hpc_fl("config", "run.yaml", cwd=tmp_path)
    assert again.stdout == first.stdout
    assert "name: fedyogi" in first.stdout


def test_data_draws_the_partition(tmp_path: Path) -> None:
    done = hpc_fl("data", "parties=4", "-o", "labels.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels.png").stat().st_size > 1000
    assert "labels.png" in done.stdout


@pytest.mark.parametrize("words", [("report", "nowhere"), ("train", "--resume", "name=never-ran")])
def test_what_is_not_there_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = hpc_fl(*words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert words[-1].removeprefix("name=") in done.stderr


def test_an_unknown_benchmark_is_named(tmp_path: Path) -> None:
    done = hpc_fl("bench", "speed", cwd=tmp_path)
    assert done.returncode == 2
    assert "round" in done.stderr
