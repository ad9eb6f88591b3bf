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
        open(__file__ + ".working", "w").close()
    transport.barrier()
{body}
"""

LAUNCHER = (
    "import sys; from hpc_fl.comm.launch import launch; sys.exit(launch({ranks}, {program}, ulfm={ulfm}))"
)


class Job:
    """The launcher, running `body` on each rank within guard."""

    def __init__(self, folder: Path, body: str, *, ranks: int = 3, ulfm: bool = False) -> None:
        script = folder / "rank.py"
        script.write_text(RANK.format(body=indent(dedent(body), "    ")))
        self._working = Path(f"{script}.working")
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

    def until_working(self) -> None:
        """Wait for the ranks to begin (which a line of output may not tell: an abort can lose it)."""
        deadline = time.monotonic() + TIME_LIMIT
        while not self._working.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"never began: {self.end()}")
            time.sleep(0.01)

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
        code, rest = ended(self.process, within)
        return code, "".join(self.lines) + rest


def ended(process: "subprocess.Popen[str]", within: float) -> tuple[int, str]:
    """The exit code of a launcher and its output; fails when it takes longer than `within` seconds."""
    try:
        output, _ = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # twice: the launcher then kills its job
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIME_LIMIT)
        pytest.fail(f"still running {within} s later:\n{output}")
    return process.returncode, output


pytestmark = pytest.mark.usefixtures("mpi")

each_way = pytest.mark.parametrize("ulfm", [False, True], ids=["plain", "ulfm"])
WAIT_FOR_ALL = "\ntransport.allreduce(np.zeros(4))\ntransport.barrier()\ntime.sleep(60)\n"


FAILURES = {
    "exception": (
        "raise ValueError('no such thing')", 1, ["rank 1: Traceback", "rank 1: ValueError: no such thing"]
    ),
    "error": ("raise DataError('no such file; get it')", 1, ["rank 1: DataError: no such file; get it\n"]),
    "configuration": ("raise ConfigError('rounds: 0 given')", 2, ["rank 1: ConfigError: rounds: 0 given\n"]),
    "exit": ("sys.exit(3)", 3, ["rank 1: left with exit code 3"]),
    "interrupt": ("raise KeyboardInterrupt", 130, ["rank 1: interrupted"]),
    "thread": (
        "threading.Thread(target=lambda: 1 / 0).start(); time.sleep(60)", 1, ["rank 1: ZeroDivisionError"]
    ),
}  # fmt: skip
PLAIN = ("exception", "error", "interrupt")
"""Also without ULFM, where the rest would be the same code again; errors and exits wait 5 s for agreement."""


@pytest.mark.parametrize(
    ("kind", "ulfm"), [*((kind, True) for kind in FAILURES), *((kind, False) for kind in PLAIN)]
)
def test_one_rank_fails(tmp_path: Path, kind: str, ulfm: bool) -> None:
    failure, code, said = FAILURES[kind]
    job = Job(tmp_path, f"if transport.rank == 1:\n    {failure}{WAIT_FOR_ALL}", ulfm=ulfm)
    job.until_working()
    got, output = job.end()
    assert got == code, output
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
    job.until_working()
    got, output = job.end()
    assert got == (1 if ulfm else 128 + signal.SIGKILL), output
    assert said in output


def test_all_ranks_are_killed(tmp_path: Path) -> None:
    """Under ULFM mpirun then returns 0."""
    job = Job(tmp_path, "time.sleep(0.5 * transport.rank)\nos.kill(os.getpid(), signal.SIGKILL)", ulfm=True)
    job.until_working()
    got, output = job.end()
    assert got == 1, output
    assert "ranks 0, 1, 2 did not end in order" in output


def test_survivors_are_left_alone(tmp_path: Path) -> None:
    job = Job(
        tmp_path,
        """
        if transport.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(5)  # longer than the launcher waits for absent ranks
        print("ALIVE", flush=True)
        """,
        ulfm=True,
    )
    job.until_working()
    got, output = job.end(TIME_LIMIT)
    assert got == 1, output
    assert output.count("ALIVE") == 2
    assert "rank 1 did not end in order" in output


def _early(folder: Path, first: str, *, ulfm: bool, ranks: int = 3) -> "subprocess.Popen[str]":
    """A job whose ranks run `first` before they import MPI."""
    script = folder / "early.py"
    script.write_text(
        f"import os, signal, sys, time\nrank = int(os.environ['OMPI_COMM_WORLD_RANK'])\n{first}\n"
        "from hpc_fl.comm.runtime import start\nstart().barrier()\n"
    )
    return Job._popen(LAUNCHER.format(ranks=ranks, program=[sys.executable, str(script)], ulfm=ulfm))


@pytest.mark.parametrize(
    ("first", "ulfm", "said"),
    [
        ("if rank == 1: raise ImportError('gone')", False, "ImportError: gone"),
        ("if rank == 1: raise ImportError('gone')", True, "ImportError: gone"),
        ("if rank == 1: os.kill(os.getpid(), signal.SIGKILL)", True, "rank 1 ended before MPI had started"),
    ],
    ids=["plain", "ulfm", "killed-ulfm"],
)
def test_one_rank_fails_before_mpi_has_started(tmp_path: Path, first: str, ulfm: bool, said: str) -> None:
    code, output = ended(_early(tmp_path, first, ulfm=ulfm), TIME_LIMIT)
    # About one time in a thousand mpirun crashes as it ends such a job (Open MPI 5.0.11).
    assert code == 1 or "mpirun itself was ended by signal 11" in output, output
    assert code != 0
    assert said in output
    assert not ulfm or "rank 1 ended before MPI had started on ranks 0, 1, 2" in output


@each_way
def test_a_signal_before_mpi_has_started_ends_the_job(tmp_path: Path, ulfm: bool) -> None:
    process = _early(tmp_path, "print('HERE', flush=True); time.sleep(60)", ulfm=ulfm, ranks=2)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    code, output = ended(process, AFTER_FAILURE)
    assert code == 128 + signal.SIGUSR1, output


def _runs(process: int) -> bool:
    """Whether there is such a process; one that has ended and waits to be buried does not count."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@each_way
def test_ranks_do_not_outlive_a_killed_mpirun(tmp_path: Path, ulfm: bool) -> None:
    job = Job(
        tmp_path,
        """
        transport.barrier()
        print(f"PIDS {os.getppid()} {os.getpid()}.", flush=True)
        time.sleep(60)
        """,
        ranks=2,
        ulfm=ulfm,
    )
    job.until("PIDS")
    job.until("PIDS")
    said = [line.partition("PIDS ")[2].rstrip(".\n").split() for line in job.lines if "PIDS" in line]
    mpirun, ranks = int(said[0][0]), [int(rank) for _, rank in said]
    os.kill(mpirun, signal.SIGKILL)
    got, output = job.end()
    assert got == 128 + signal.SIGKILL
    assert "mpirun itself was ended by signal 9" in output
    deadline = time.monotonic() + AFTER_FAILURE
    while any(_runs(rank) for rank in ranks):
        assert time.monotonic() < deadline, output
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("signum", "ulfm"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGUSR1, True)],
)
def test_a_signal_at_the_launcher_asks_the_ranks_to_stop(
    tmp_path: Path, signum: signal.Signals, ulfm: bool
) -> None:
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
        ulfm=ulfm,
    )
    job.until("READY")
    job.process.send_signal(signum)
    got, output = job.end()
    assert got == 75, output
    assert "rank 0: " not in output


@each_way
def test_a_second_interrupt_kills_the_job(tmp_path: Path, ulfm: bool) -> None:
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
        ulfm=ulfm,
    )
    job.until("READY")
    job.until("READY")
    job.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    got, output = job.end()
    assert got not in (0, 75), output


@each_way
def test_success_is_zero(tmp_path: Path, ulfm: bool) -> None:
    got, output = Job(tmp_path, "transport.barrier()", ulfm=ulfm).end(TIME_LIMIT)
    assert got == 0, output
