"""The examples of docs/examples under mpirun, as their readers start them."""

import json
import sys
from pathlib import Path

import pytest
from system.test_mpirun import run_in_group

from hpc_fl.comm.launch import environment, mpirun_command

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
RANKS = 4
TIME_LIMIT = 240.0


pytestmark = pytest.mark.usefixtures("mpi")


def start(program: list[str], folder: Path) -> str:
    """Runs python with `program` on all ranks, working in `folder`; the output."""
    env = environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = mpirun_command(RANKS, [sys.executable, *program], extra=["--wdir", str(folder)])
    code, output = run_in_group(command, TIME_LIMIT, env)
    assert code == 0, output
    return output


def losses(run_dir: Path) -> list[float]:
    """The held-out losses of a run, round by round."""
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_own_model_in_a_short_script(tmp_path: Path) -> None:
    script = EXAMPLES / "own_model.py"
    assert len(script.read_text().splitlines()) <= 30
    output = start([str(script)], tmp_path)
    said = [line for line in output.splitlines() if line.startswith("accuracy 0.")]
    assert len(said) == RANKS, output
    assert len(set(said)) == 1, "ranks disagree"
    assert float(said[0].split()[1].rstrip(",")) > 0.95
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert losses(run_dir)[-1] < losses(run_dir)[0]


def test_training_step_by_step(tmp_path: Path) -> None:
    script = EXAMPLES / "per_step.py"
    assert len(script.read_text().splitlines()) <= 30
    output = start([str(script)], tmp_path)
    said = [line.split() for line in output.splitlines() if line.startswith("accuracy 0.")]
    assert len(said) == RANKS, output
    assert len({accuracy for _, accuracy, *_ in said}) == 1, "ranks disagree"
    assert float(said[0][1].rstrip(",")) > 0.9
    dense = 8 * (RANKS - 1) / RANKS
    assert all(float(sent) < dense / 3 for _, _, sent, *_ in said), "four fifths of the steps have 1 bit"


@pytest.mark.parametrize(("way", "messages"), [("gossip", 1.0), ("allreduce", 2 * (RANKS - 1) / RANKS)])
def test_from_allreduce_to_gossip_in_one_line(way: str, messages: float, tmp_path: Path) -> None:
    script = EXAMPLES / "per_step_gossip.py"
    output = start([str(script), *([way] if way == "allreduce" else [])], tmp_path)
    said = [line.split() for line in output.splitlines() if line.startswith("accuracy 0.")]
    assert len(said) == RANKS, output
    assert len({accuracy for _, accuracy, *_ in said}) == 1, "ranks disagree"
    assert float(said[0][1].rstrip(",")) > 0.9
    assert all(abs(float(sent) - 4 * messages) < 0.4 for _, _, sent, *_ in said)


def test_own_code_by_name(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ["rounds=4", "telemetry.report=false", "telemetry.tensorboard=false"]
    start(["-m", "hpc_fl", "train", "own_code.yaml", *settings, "--run-dir", str(run_dir)], EXAMPLES)
    assert losses(run_dir)[-1] < losses(run_dir)[0]
