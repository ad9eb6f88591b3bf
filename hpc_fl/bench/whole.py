"""Run a command such that nothing it started outlives it. Standard library only; Linux; needs root."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from hpc_fl.errors import TransportTimeout

# A process namespace: when its first process dies the kernel ends all others, whatever they do about signals
# and sessions; and that one dies with the thread that called run_whole(), even by SIGKILL.
# unshare itself is silent: it complains of a SIGKILL that it cannot pass on to itself.
_WHOLE: Final = (
    "sh", "-c", 'exec "$@" 3>&2 2>/dev/null', "whole",
    "setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
    "sh", "-c", '"$@" 2>&3 3>&-; exit $?', "whole",
)  # fmt: skip
_PATIENCE: Final = 5.0


def run_whole(
    command: Sequence[str], *, what: str, env: Mapping[str, str], timeout: float | None, capture: bool
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end, without input, and kill what it has left behind; what it returned.

    what: its name in a message. capture: keep stdout and stderr. Its processes see process numbers of their
    own. A signal N that ended it is code 128 + N. Raises TransportTimeout, with the last of what was
    captured, after `timeout` seconds.
    """
    pipe = subprocess.PIPE if capture else None
    process = subprocess.Popen(
        [*_WHOLE, *command], env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        text=True, errors="replace",
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException as error:
        _end(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        out, err = process.communicate()
        told = f"\n{out[-2000:]}{err[-2000:]}" if capture else ""
        raise TransportTimeout(f"still running after {timeout:g} s, killed: {what}{told}") from None
    code = process.returncode
    return subprocess.CompletedProcess(list(command), code if code >= 0 else 128 - code, out, err)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the first process of the namespace: unshare then returns when the last of the others is gone."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with suppress(OSError):  # ended meanwhile
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # killed before it had a child, or this kernel does not list children
        process.kill()
        process.wait()
