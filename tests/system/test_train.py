"""`hpc-fl train` over real ranks: the run folder, a stop and its continuation, ranks that fail."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from system.small_run import SMALL

from hpc_fl.errors import EXIT_CONFIG, EXIT_RESUME
from hpc_fl.telemetry import read_jsonl

ROOT = Path(__file__).parents[2]
LIMIT = 180.0


pytestmark = pytest.mark.usefixtures("mpi")


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "hpc_fl", "train", *words],
        cwd=folder,
        env=env | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )


def finish(process: "subprocess.Popen[str]", within: float = LIMIT) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        for _ in range(2):  # the second SIGINT makes the launcher kill its job
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        output, _ = process.communicate(timeout=60)
        pytest.fail(f"still running {within} s later:\n{output}")
    return process.returncode, output


def wait_for(process: "subprocess.Popen[str]", text: str) -> None:
    """Reads the output up to a line with ``text``; a job that does not say it in time is killed."""
    assert process.stdout is not None
    lines = []
    watchdog = threading.Timer(LIMIT, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return
    finally:
        watchdog.cancel()
    pytest.fail(f"ended without saying {text!r}:\n{''.join(lines)}")


def test_four_ranks_leave_one_run_folder(tmp_path: Path) -> None:
    code, output = finish(start(tmp_path, "-n", "4", *SMALL, "rounds=3", "trace=true", "--run-dir", "run"))
    assert code == 0, output
    run = tmp_path / "run"
    records = read_jsonl(run / "metrics.jsonl")
    assert [r["round"] for r in records] == [1, 2, 3]
    assert all(r["world_size"] == 4 and len(r["bytes_sent"]["allreduce"]) == 4 for r in records)
    assert {e["pid"] for e in json.loads((run / "trace.json").read_text())["traceEvents"]} >= {0, 1, 2, 3}
    assert (run / "report.html").stat().st_size > 10_000
    assert json.loads((run / "versions.json").read_text())["ranks"] == 4
    assert "accuracy" in output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_resumed(tmp_path: Path, signum: signal.Signals) -> None:
    process = start(tmp_path, "-n", "2", *SMALL, "rounds=100000", "evaluate.every=1000", "--run-dir", "run")
    wait_for(process, "/100000")
    process.send_signal(signum)
    code, output = finish(process, 60)
    assert code == EXIT_RESUME, output
    stopped_at = read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]["round"]
    code, output = finish(
        start(tmp_path, "--resume", "--run-dir", "run", "-n", "3", f"rounds={stopped_at + 2}")
    )
    assert code == 0, output
    rounds = [r["round"] for r in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert rounds == list(range(1, stopped_at + 3)), "no round is missing and none is there twice"


OWN = """
import os
from torch import nn
class Failing(nn.Linear):
    calls = 0
    def forward(self, x):
        Failing.calls += 1
        if os.environ["OMPI_COMM_WORLD_RANK"] == "1" and Failing.calls > {calls}:
            {failure}
        return super().forward(x)
def make():
    return Failing(6, 3)
"""


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("raise RuntimeError('out of luck')", "rank 1: RuntimeError: out of luck"),
        ("os.kill(os.getpid(), 9)", "rank 1"),
    ],
    ids=["raises", "killed"],
)
def test_one_failing_rank_ends_the_run(tmp_path: Path, failure: str, says: str) -> None:
    (tmp_path / "own.py").write_text(OWN.format(failure=failure, calls=3))
    words = [w for w in SMALL if not w.startswith("model")]
    process = start(tmp_path, "-n", "3", *words, "model=own:make", "rounds=100000", "--run-dir", "run")
    code, output = finish(process, 120)
    assert code not in (0, EXIT_RESUME)
    assert says in output
    assert output.count("out of luck") <= 2, "the traceback is printed once"


def test_a_failed_run_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN.format(failure="os.kill(os.getpid(), 9)", calls=100))
    words = [w for w in SMALL if not w.startswith("model")]
    rounds = ["rounds=100000", "checkpoint.every=1"]
    code, output = finish(start(tmp_path, "-n", "3", *words, "model=own:make", *rounds), 120)
    assert code not in (0, EXIT_RESUME)
    (line,) = [line for line in output.splitlines() if line.startswith("hpc-fl: to go on from round ")]
    done, command = line.removeprefix("hpc-fl: to go on from round ").split(
        ", once the cause is gone: hpc-fl train "
    )
    code, output = finish(start(tmp_path, *command.split(), f"rounds={int(done) + 1}"), 120)
    assert code == 0, output
    assert f"rounds {int(done) + 1} to {int(done) + 1}" in output


def test_what_all_ranks_find_wrong_is_said_once(tmp_path: Path) -> None:
    code, output = finish(start(tmp_path, "-n", "3", *SMALL, "model=nowhere:make", "rounds=1"))
    assert code == EXIT_CONFIG
    assert sum("nowhere" in line for line in output.splitlines()) == 1, output
