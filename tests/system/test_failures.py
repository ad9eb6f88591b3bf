"""Jobs that end badly: they must end soon, with the promised exit code, and say which rank failed of what.

The ranks run small scripts without torch, so that they start fast.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent, indent

import pytest

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 60.0
AFTER_FAILURE = 10.0

RANK = """
import os, signal, sys, threading, time
import numpy as np
from hpc_fl.comm.runtime import StopSignals, guard, start
from hpc_fl.errors import ConfigError, DataError

transport = start()
with guard(transport):
    if transport.rank == 0:
        print("WORKING", flush=True)
    transport.barrier()
{body}
"""

LAUNCHER = (
    "import sys; from hpc_fl.comm.launch import launch; sys.exit(launch({ranks}, {program}, ulfm={ulfm}))"
)


class Job:
    """The launcher, running `body` on each rank within guard; its output is read until it ends."""

    def __init__(self, folder: Path, body: str, *, ranks: int = 3, ulfm: bool = False) -> None:
        script = folder / "rank.py"
        script.write_text(RANK.format(body=indent(dedent(body), "    ")))
        self.process = self._popen(
            LAUNCHER.format(ranks=ranks, program=[sys.executable, str(script)], ulfm=ulfm)
        )
        self.lines: list[str] = []

    @staticmethod
    def _popen(program: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", process_group=0,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def until(self, text: str) -> None:
        """Read the output up to a line that holds `text`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"ended without saying {text}:\n{''.join(self.lines)}")

    def end(self, within: float = AFTER_FAILURE) -> tuple[int, str]:
        """The exit code and all output; fails when the job goes on for longer than `within` seconds."""
        try:
            rest, _ = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)  # twice: the launcher then kills its job
            time.sleep(0.5)
            self.process.send_signal(signal.SIGINT)
            rest, _ = self.process.communicate(timeout=TIME_LIMIT)
            pytest.fail(f"still running {within} s later:\n{''.join(self.lines)}{rest}")
        return self.process.returncode, "".join(self.lines) + rest


pytestmark = pytest.mark.usefixtures("mpi")


WAIT_FOR_ALL = "\ntransport.allreduce(np.zeros(4))\ntransport.barrier()\ntime.sleep(60)\n"


@pytest.mark.parametrize("ulfm", [False, True])
@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        ("raise ValueError('no such thing')", 1, ["rank 1: Traceback", "rank 1: ValueError: no such thing"]),
        ("raise DataError('no such file; get it')", 1, ["rank 1: DataError: no such file; get it\n"]),
        ("raise ConfigError('rounds: 0 given')", 2, ["rank 1: ConfigError: rounds: 0 given\n"]),
        ("sys.exit(3)", 3, ["rank 1: left with exit code 3"]),
        ("raise KeyboardInterrupt", 130, ["rank 1: interrupted"]),
        ("threading.Thread(target=lambda: 1 / 0).start(); time.sleep(60)", 1, ["rank 1: ZeroDivisionError"]),
    ],
    ids=["exception", "error", "configuration", "exit", "interrupt", "thread"],
)  # fmt: skip
def test_one_rank_fails(tmp_path: Path, failure: str, code: int, said: list[str], ulfm: bool) -> None:
    job = Job(tmp_path, f"if transport.rank == 1:\n    {failure}{WAIT_FOR_ALL}", ulfm=ulfm)
    job.until("WORKING")
    ended, output = job.end()
    assert ended == code, output
    for text in said:
        assert text in output
    on_purpose = any(name in failure for name in ("DataError", "ConfigError"))
    assert not (on_purpose and "Traceback" in output), output


@pytest.mark.parametrize(("ulfm", "said"), [(False, "rank 1"), (True, "rank 1 died")])
def test_one_rank_is_killed(tmp_path: Path, ulfm: bool, said: str) -> None:
    job = Job(
        tmp_path,
        f"if transport.rank == 1:\n    os.kill(os.getpid(), signal.SIGKILL){WAIT_FOR_ALL}",
        ulfm=ulfm,
    )
    job.until("WORKING")
    ended, output = job.end()
    assert ended == (1 if ulfm else 128 + signal.SIGKILL), output
    assert said in output


def test_one_rank_fails_before_mpi_has_started(tmp_path: Path) -> None:
    script = tmp_path / "early.py"
    script.write_text(
        "import os\nif os.environ['OMPI_COMM_WORLD_RANK'] == '1':\n    raise ImportError('gone')\n"
        "from hpc_fl.comm.runtime import start\nstart().barrier()\n"
    )
    process = Job._popen(LAUNCHER.format(ranks=2, program=[sys.executable, str(script)], ulfm=False))
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # twice: the launcher then kills its job
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIME_LIMIT)
        pytest.fail(f"still running after {TIME_LIMIT} s\n{output}")
    # About one time in a thousand mpirun crashes as it ends such a job (Open MPI 5.0.11).
    assert process.returncode == 1 or "mpirun itself was ended by signal 11" in output, output
    assert process.returncode != 0
    assert "ImportError: gone" in output


def _runs(process: int) -> bool:
    """Whether there is such a process; one that has ended and waits to be buried does not count."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ranks_do_not_outlive_a_killed_mpirun(tmp_path: Path) -> None:
    job = Job(
        tmp_path,
        """
        transport.barrier()
        print(f"PIDS {os.getppid()} {os.getpid()}.", flush=True)
        time.sleep(60)
        """,
        ranks=2,
    )
    job.until("PIDS")
    job.until("PIDS")
    said = [line.partition("PIDS ")[2].rstrip(".\n").split() for line in job.lines if "PIDS" in line]
    mpirun, ranks = int(said[0][0]), [int(rank) for _, rank in said]
    os.kill(mpirun, signal.SIGKILL)
    ended, output = job.end()
    assert ended == 128 + signal.SIGKILL
    assert "mpirun itself was ended by signal 9" in output
    deadline = time.monotonic() + AFTER_FAILURE
    while any(_runs(rank) for rank in ranks):
        assert time.monotonic() < deadline, output
        time.sleep(0.1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_at_the_launcher_asks_the_ranks_to_stop(tmp_path: Path, signum: signal.Signals) -> None:
    job = Job(
        tmp_path,
        """
        with StopSignals() as stop:
            transport.barrier()
            if transport.rank == 0:
                print("READY", flush=True)
            stopped = np.zeros(1)
            while not stopped[0]:
                stopped[0] = stop.requested is not None
                transport.allreduce(stopped, "max")
                time.sleep(0.01)
        sys.exit(75)
        """,
        ranks=2,
    )
    job.until("READY")
    job.process.send_signal(signum)
    ended, output = job.end()
    assert ended == 75, output
    assert "rank 0: " not in output


def test_a_second_interrupt_kills_the_job(tmp_path: Path) -> None:
    job = Job(
        tmp_path,
        """
        with StopSignals():
            transport.barrier()
            print("READY", flush=True)
            while True:
                time.sleep(0.1)
        """,
        ranks=2,
    )
    job.until("READY")
    job.until("READY")
    job.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    ended, output = job.end()
    assert ended not in (0, 75), output


def test_success_is_zero(tmp_path: Path) -> None:
    ended, output = Job(tmp_path, "transport.barrier()").end(TIME_LIMIT)
    assert ended == 0, output
