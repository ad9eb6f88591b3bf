"""Batch jobs under a real Slurm of two nodes: the template, its requeue and ends; ranks by -n and by srun."""

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from system.slurm_cluster import SlurmCluster, why_not
from system.small_run import SMALL

from hpc_fl.errors import EXIT_CONFIG, EXIT_RESUME
from hpc_fl.telemetry import read_jsonl

ROOT = Path(__file__).parents[2]
LIMIT = 90.0
LONG = [*SMALL, "rounds=1000000", "checkpoint.every=1000000"]


pytestmark = pytest.mark.usefixtures("mpi")


@pytest.fixture(scope="module")
def cluster(
    need: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmCluster]:
    reason = why_not()
    need(not reason, reason)
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, folder.parent, folder.parent.parent):
        parent.chmod(0o755)
    with SlurmCluster(folder, nodes=2) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder to submit from, which to the template looks like the checkout."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


class Job:
    """A batch job on both nodes, with two tasks on each, and what it leaves in ``folder``."""

    def __init__(self, cluster: SlurmCluster, folder: Path, *script: str) -> None:
        self.cluster, self.folder = cluster, folder
        self.number = cluster.call(
            "sbatch", "--parsable", "-N", "2", "--ntasks-per-node=2", *script, folder=folder
        )
        self.run = folder / "runs" / f"job-{self.number}"

    @property
    def output(self) -> str:
        file = self.folder / f"slurm-{self.number}.out"
        return file.read_text() if file.exists() else ""

    def rounds(self) -> list[int]:
        file = self.run / "metrics.jsonl"
        return [record["round"] for record in read_jsonl(file)] if file.exists() else []

    def reach(self, round_: int) -> None:
        """Waits until that round is over."""
        end = time.monotonic() + LIMIT
        while len(self.rounds()) < round_:
            assert time.monotonic() < end, f"round {round_} not reached:\n{self.output}"
            time.sleep(0.1)

    def ended(self) -> tuple[str, str]:
        """State and exit code (code:signal) when it is over."""
        job = self.cluster.wait(
            self.number, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", within=LIMIT
        )
        return job["JobState"], job["ExitCode"]


def template(cluster: SlurmCluster, folder: Path, *words: str) -> Job:
    return Job(cluster, folder, str(ROOT / "slurm" / "train.sbatch"), *words)


def wrapped(cluster: SlurmCluster, folder: Path, *command: str) -> Job:
    # An open stdin makes srun wait for what nobody types.
    return Job(cluster, folder, "--wrap", f"{shlex.join(command)} </dev/null")


def test_a_job_that_is_requeued_goes_on_where_it_was(cluster: SlurmCluster, here: Path) -> None:
    """As near the time limit: SIGUSR1 for the script. Slurm lets a requeued job wait for two minutes."""
    job = template(cluster, here, *SMALL, "rounds=150", "checkpoint.every=1000000")
    job.reach(3)
    cluster.call("scancel", "--signal=USR1", "--batch", job.number)
    cluster.wait(job.number, "PENDING", within=LIMIT)
    stopped = len(job.rounds())
    assert 3 <= stopped < 150
    time.sleep(2)  # a node does not take a job back in the second in which it gave it up
    cluster.call("scontrol", "update", f"JobId={job.number}", "StartTime=now")
    assert job.ended() == ("COMPLETED", "0:0"), job.output
    assert cluster.job(job.number)["Restarts"] == "1"
    assert job.rounds() == list(range(1, 151))
    assert job.output.count("5 parties on 4 ranks") == 2
    assert f"rounds {stopped + 1} to 150" in job.output
    assert "train.sbatch: requeueing" in job.output


def test_a_gentle_stop_leaves_a_checkpoint_and_no_requeue(cluster: SlurmCluster, here: Path) -> None:
    job = template(cluster, here, *LONG, "--run-dir", "runs/elsewhere")
    job.run = here / "runs" / "elsewhere"
    job.reach(1)
    cluster.call("scancel", "--signal=TERM", "--batch", job.number)
    assert job.ended() == ("FAILED", f"{EXIT_RESUME}:0"), job.output
    last = job.rounds()[-1]
    assert (job.run / "checkpoints" / f"round-{last:08d}").is_dir()
    assert "requeueing" not in job.output


def test_a_wrong_configuration_ends_the_job_with_one_line(cluster: SlurmCluster, here: Path) -> None:
    job = template(cluster, here, *SMALL, "rouns=3")
    assert job.ended() == ("FAILED", f"{EXIT_CONFIG}:0"), job.output
    lines = [line for line in job.output.splitlines() if line.startswith("hpc-fl: ")]
    assert len(lines) == 1, job.output
    assert "rouns" in lines[0]
    assert "rounds" in lines[0]


def test_a_rank_that_is_killed_ends_the_job(cluster: SlurmCluster, here: Path) -> None:
    job = template(cluster, here, *LONG)
    job.reach(1)
    os.kill(_rank_of(job, "3"), signal.SIGKILL)
    state, code = job.ended()
    assert state == "FAILED", job.output
    assert code != "0:0"


def test_ranks_started_by_n_use_the_allocation(cluster: SlurmCluster, here: Path) -> None:
    words = [*SMALL, "rounds=2", "--run-dir", "runs/mine"]
    job = wrapped(cluster, here, sys.executable, "-m", "hpc_fl", "train", "-n", "4", *words)
    assert job.ended() == ("COMPLETED", "0:0"), job.output
    assert "5 parties on 4 ranks" in job.output
    assert len(list(read_jsonl(here / "runs" / "mine" / "metrics.jsonl"))) == 2


def test_srun_that_mpi_does_not_understand_is_refused(cluster: SlurmCluster, here: Path) -> None:
    """Each process would be rank 0 of 1: this Slurm has no PMIx."""
    words = [*SMALL, "rounds=2", "--run-dir", "runs/mine"]
    job = wrapped(cluster, here, "srun", "-n", "2", sys.executable, "-m", "hpc_fl", "train", *words)
    state, code = job.ended()
    assert (state, code) == ("FAILED", f"{EXIT_CONFIG}:0"), job.output
    assert "srun started 2 ranks" in job.output
    assert not (here / "runs" / "mine").exists()


def _rank_of(job: Job, rank: str) -> int:
    """The process that is this rank of the job."""
    wanted = {f"SLURM_JOB_ID={job.number}".encode(), f"OMPI_COMM_WORLD_RANK={rank}".encode()}
    conf = f"SLURM_CONF={job.cluster.environment['SLURM_CONF']}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted | {conf} <= set(file.read_bytes().split(b"\0")):
                return int(file.parent.name)
        except OSError:
            continue
    pytest.fail(f"no process is rank {rank} of job {job.number}")
