"""A Slurm of several nodes on this machine: its controller, a slurmd for each node, and its own munged.

Everything lies in one folder, the ports are free ones, and nothing of a Slurm that the machine may belong to
is read or touched. All nodes are this machine: jobs on them share its cores, its memory and its host name.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PROGRAMS: Final = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
_UP_WITHIN: Final = 30.0
_STEP_LIMIT: Final = 30.0
_LOOK: Final = 0.1
_CPUS: Final = 4
"""Of each node, whatever the machine has: a test of two ranks a node must not wait for cores."""

_CONFIG: Final = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=5
"""


def why_not() -> str:
    """Why this machine and user cannot have one, as one line that says what to do; empty when they can."""
    missing = [
        package for program, package in _PROGRAMS.items() if shutil.which(program, path=_path()) is None
    ]
    if missing:
        return f"Slurm: apt-get install {' '.join(missing)}"
    return "" if os.geteuid() == 0 else "Slurm: its daemons need root here"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class SlurmCluster:
    """``with SlurmCluster(folder, nodes=2) as cluster``: up when it is entered, gone with all its jobs after.

    ``folder``: an empty one, whose path has no blanks and which is readable for all (munged insists).
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder, self._nodes = folder, nodes
        self._stack = ExitStack()
        self.environment: Mapping[str, str] = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "SLURM_"))},
            "PATH": _path(),
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start_munge(stack)
            self._configure()
            self._daemon(stack, "slurmctld", "slurmctld", "-D")
            for node in self._names():
                self._daemon(stack, node, "slurmd", "-D", "-N", node)
            self._wait_until_idle()
            stack.callback(self._end_jobs)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def call(self, *command: str, folder: Path | None = None) -> str:
        """What a Slurm command prints. Raises AssertionError with its words where it fails."""
        done = subprocess.run(
            command, env=self.environment, cwd=folder, capture_output=True, text=True, check=False,
            timeout=_STEP_LIMIT,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` says of it."""
        words = self.call("scontrol", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, within: float) -> dict[str, str]:
        """The job, when it is in one of these states; fails with the logs when it is not in time."""
        end = time.monotonic() + within
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < end, f"{job} after {within} s, {states} expected\n{self.logs()}"
            time.sleep(_LOOK)
        return job

    def logs(self) -> str:
        """The last lines of all daemons."""
        files = sorted((self._folder / "log").glob("*"))
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in files)

    def _names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(self._nodes)]

    def _start_munge(self, stack: ExitStack) -> None:
        own = self._folder / "munge"
        own.mkdir()
        own.chmod(0o755)
        key = own / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        (self._folder / "log").mkdir()
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed"}
        options = [f"--{option}={own / name}" for option, name in files.items()]
        log = f"--log-file={self._folder / 'log' / 'munged'}"
        self._daemon(stack, "munged.out", "munged", "--foreground", *options, log)
        self._wait_for((own / "socket").exists, "munged has no socket")

    def _configure(self) -> None:
        host, ports = socket.gethostname(), _free_ports(1 + self._nodes)
        text = _CONFIG.format(host=host, controller=ports[0], user=getpass.getuser(), folder=self._folder)
        for name, port in zip(self._names(), ports[1:], strict=True):
            text += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={_CPUS}\n"
        text += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        (self._folder / "slurm.conf").write_text(text)
        (self._folder / "state").mkdir()

    def _daemon(self, stack: ExitStack, name: str, *command: str) -> None:
        log = stack.enter_context((self._folder / "log" / f"{name}.out").open("w"))
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, process)

    def _wait_until_idle(self) -> None:
        def idle() -> bool:
            done = subprocess.run(
                ["sinfo", "-h", "-o", "%T %D"], env=self.environment, capture_output=True, text=True,
                check=False, timeout=_STEP_LIMIT,
            )  # fmt: skip
            return done.stdout.split() == ["idle", str(self._nodes)]

        self._wait_for(idle, "not all nodes are idle")

    def _wait_for(self, holds: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _UP_WITHIN
        while not holds():
            assert time.monotonic() < end, f"{what} after {_UP_WITHIN} s\n{self.logs()}"
            time.sleep(_LOOK)

    def _end_jobs(self) -> None:
        """Or what they started would outlive the daemons."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.call("scancel", "--me", "--signal=KILL", "--full")
            self.call("scancel", "--me")
            self._wait_for(lambda: not self.call("squeue", "-h"), "jobs are still there")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
