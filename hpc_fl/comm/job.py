"""mpirun under way: what signals at the launcher mean for it, when it has to be ended, its exit code.

Imports the standard library only, as launch does.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

from hpc_fl.comm.guard import REPORT_FILE
from hpc_fl.comm.rollcall import ROLL_FOLDER, RollCall
from hpc_fl.comm.watches import Watch, children, lost, watches
from hpc_fl.errors import EXIT_FAILURE

_ASK_TO_STOP: Final = signal.SIGUSR1
_PATIENCE: Final = 5.0
_ABORT_WITHIN: Final = 3.0
_GLANCE: Final = 0.2


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
        trouble = _watched(process, report, watches(roll))
        if report.exists():
            return self._reported(process, report)
        if trouble is not None:
            self._end(process)
            process.wait()
            return self._failed(trouble)
        code = process.wait()
        if code < 0:
            return self._crashed(-code)
        return self._checked(code, roll)

    def _checked(self, code: int, roll: RollCall | None) -> int:
        """The exit code of mpirun, unless it is 0 though not every rank has ended in order."""
        silent = lost(roll)
        if silent and code == 0:
            return self._failed(silent)
        if silent and self._interrupts < 2 and roll is not None and not roll.not_started():
            _say(f"{silent}\n")
        return code

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


def _watched(process: "subprocess.Popen[bytes]", report: Path, looking: Sequence[Watch]) -> str | None:
    """Wait for mpirun to end, or for a report, or for trouble, and return that."""
    while process.poll() is None and not report.exists():
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GLANCE)
        for watch in looking:
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


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
