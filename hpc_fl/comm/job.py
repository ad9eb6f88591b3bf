"""mpirun under way: what signals at the launcher mean for it, when it has to be ended, its exit code.

Imports the standard library only, as launch does.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final, Protocol

from hpc_fl.comm.guard import REPORT_FILE
from hpc_fl.comm.rollcall import ROLL_FOLDER, RollCall, named
from hpc_fl.errors import EXIT_FAILURE

_ASK_TO_STOP: Final = signal.SIGUSR1
_PATIENCE: Final = 5.0
_ABORT_WITHIN: Final = 3.0
_GLANCE: Final = 0.2
_DESERTED: Final = 5.0
_ABSENT: Final = 4.0
_RANK: Final = b"OMPI_COMM_WORLD_RANK="


class _Watch(Protocol):
    """Sees that a job cannot end by itself."""

    def trouble(self, mpirun: int) -> str | None:
        """Why the job of this process must be ended, else None. To be asked again and again."""
        ...


class Job:
    """mpirun in its own process group, once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._asked = False
        self._interrupts = 0

    def on_signal(self, signum: int, _frame: FrameType | None) -> None:
        """Ask the ranks to finish (mpirun hands SIGUSR1 to them all); a second SIGINT ends the job."""
        if self._process is None:
            self._early.append(signum)
            return
        self._asked = True
        self._interrupts += signum == signal.SIGINT
        if signum == signal.SIGINT and self._interrupts > 1:
            self._end(self._process)
        else:
            self._process.send_signal(_ASK_TO_STOP)

    def run(
        self, command: Sequence[str], env: Mapping[str, str], report: Path, roll: RollCall | None = None
    ) -> int:
        """The exit code of the job; 128 + N when signal N ended mpirun.

        `report`: where a rank that ends the job leaves its code and a message. `roll`: under ULFM, to find
        ranks that end without a word.
        """
        asking = {REPORT_FILE: str(report)} | ({} if roll is None else {ROLL_FOLDER: str(roll.folder)})
        # stdin is closed: read from a background group of a terminal it would stop mpirun.
        self._process = process = subprocess.Popen(
            command, env={**env, **asking}, stdin=subprocess.DEVNULL, process_group=0
        )
        for signum in self._early:
            self.on_signal(signum, None)
        trouble = _watched(process, report, _watches(roll))
        if report.exists():
            return self._reported(process, report)
        if trouble is not None:
            self._end(process)
            process.wait()
            return self._failed(trouble)
        code = process.wait()
        if code < 0:
            return self._crashed(-code)
        lost = "" if code else _lost(roll)
        return self._failed(lost) if lost else code

    def _reported(self, process: "subprocess.Popen[bytes]", report: Path) -> int:
        """Print what a rank has reported, and return its exit code."""
        # Under ULFM mpirun was seen to return 0, or never, after survivors of a killed rank had aborted.
        try:
            process.wait(_ABORT_WITHIN)
        except subprocess.TimeoutExpired:
            self._end(process)
            process.wait()
        told, _, text = report.read_text().partition("\n")
        _say(text)
        return int(told)

    def _crashed(self, signum: int) -> int:
        """mpirun itself died of a signal. Seen: of SIGSEGV, as it ended a job with a rank still starting."""
        if self._interrupts < 2:  # at the second one it was this launcher
            _say(f"mpirun itself was ended by signal {signum}, and its ranks with it\n")
        return 128 + signum

    def _failed(self, trouble: str) -> int:
        if self._asked:  # ranks that do not catch the signal yet end by it
            _say(f"{trouble}; a signal had asked the job to end\n")
            return 128 + _ASK_TO_STOP
        _say(f"{trouble}\n")
        return EXIT_FAILURE

    @staticmethod
    def _end(process: "subprocess.Popen[bytes]") -> None:
        process.terminate()
        last = threading.Timer(_PATIENCE, _kill, [process])
        last.daemon = True
        last.start()


def _watches(roll: RollCall | None) -> list[_Watch]:
    return [Deserted(roll)] if roll is None else [Deserted(roll), Absent(roll)]


def _watched(process: "subprocess.Popen[bytes]", report: Path, watches: Sequence[_Watch]) -> str | None:
    """Wait for mpirun to end, or for a report, or for trouble, and return that."""
    while process.poll() is None and not report.exists():
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GLANCE)
        for watch in watches:
            trouble = watch.trouble(process.pid)
            if trouble is not None:
                return trouble
    return None


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End an mpirun that does not end when asked, and first its ranks: they would outlive it."""
    if process.poll() is None:
        for child in children(process.pid) or ():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        process.kill()


def _lost(roll: RollCall | None) -> str:
    """Which ranks ended without a word, for people; empty where there are none, or nobody has asked."""
    lost = [] if roll is None else roll.not_ended()
    return f"{named(lost)} did not end in order: killed, or crashed" if lost else ""


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class Deserted:
    """Whether mpirun stays though all that it started has ended.

    Seen, rarely and under load: where a rank died before MPI had started on another one.
    """

    def __init__(self, roll: RollCall | None = None) -> None:
        self._roll = roll
        self._had = False
        self._since: float | None = None

    def trouble(self, mpirun: int) -> str | None:
        """Never where the system does not tell."""
        pids = children(mpirun)
        living = pids is None or any(map(_runs, pids))
        self._had = self._had or living
        if living or not self._had:
            self._since = None
            return None
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since <= _DESERTED:
            return None
        stays = f"mpirun did not end though its ranks had, {_DESERTED:g} s ago; it was ended"
        return "\n".join(filter(None, (_lost(self._roll), stays)))


class Absent:
    """Whether a rank ended before MPI had started on all: under ULFM the others wait for it for ever.

    Once MPI has started on all, those that live are left alone.
    """

    def __init__(self, roll: RollCall) -> None:
        self._roll = roll
        self._all_started = False
        self._most = 0
        self._since = time.monotonic()

    def trouble(self, mpirun: int) -> str | None:
        absent = [] if self._all_started else self._roll.not_started()
        self._all_started = not absent
        pids = children(mpirun)
        if self._all_started or pids is None:
            return None
        alive = [pid for pid in pids if _runs(pid)]
        living = len(alive)
        # A rank may end before it was ever seen, and mpirun takes time to start many: what counts is that
        # some are missing and no more come.
        if living in {0, self._roll.ranks} or living > self._most:
            self._most, self._since = max(living, self._most), time.monotonic()
        if time.monotonic() - self._since <= _ABSENT:
            return None
        dead = sorted(set(absent) - {_rank(pid) for pid in alive})
        return f"{named(dead)} ended before MPI had started on {named(absent)}; the job was ended"


def _rank(pid: str) -> int | None:
    """The rank that a living child of mpirun is; None where it has just ended."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(word[len(_RANK) :]) for word in words if word.startswith(_RANK)), None)


def children(pid: int) -> list[str] | None:
    """The processes that a process has started and not buried; None where the system does not tell."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has just ended, or there is no such file
        return None


def _runs(pid: str) -> bool:
    """Whether a process is there and has not ended; one that waits to be buried has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
