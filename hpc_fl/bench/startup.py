"""``hpc-fl bench startup``: how long a user waits before the first round begins.

The yardstick ("bare imports") is what no program of torch and mpi4py can avoid: as many ranks that import
both and end. Ours is the time from starting the command to the moment at which the run says that it begins.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from hpc_fl.bench.record import Record, interleave
from hpc_fl.comm.launch import environment, mpirun_command
from hpc_fl.errors import HpcFlError

BAR: Final = 1.5
HELP_SECONDS: Final = 0.3
_IMPORTS: Final = "import torch, mpi4py.MPI"


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``ranks=4``; ``times=N``: how often each is measured."""
    ranks, times = int(options.get("ranks", "4")), int(options.get("times", "5"))
    bare = mpirun_command(ranks, [sys.executable, "-c", _IMPORTS])
    ours, theirs = interleave(partial(_until_first_round, ranks), partial(_seconds, bare), times)
    help_, _ = interleave(
        partial(_seconds, [sys.executable, "-m", "hpc_fl", "--help"]), lambda: 0.0, 3 * times
    )
    return [
        Record.of("until first round", ours, "bare imports", theirs, BAR, ranks=ranks),
        Record.at_most("hpc-fl --help", help_, HELP_SECONDS, "s"),
    ]


def _until_first_round(ranks: int) -> float:
    """Seconds from the start of ``hpc-fl train`` to its first round, with the default telemetry."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        command = [sys.executable, "-m", "hpc_fl", "train", "rounds=1", "-n", str(ranks)]
        start = time.time()
        # The choice of executor that an earlier run has kept would shorten this one.
        _check([*command, "--run-dir", str(folder)], {"XDG_CACHE_HOME": temporary})
        events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
        began = next(float(event["time"]) for event in events if event["event"] == "RunStarted")
    return began - start


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    _check(command, {})
    return time.perf_counter() - start


def _check(command: Sequence[str], variables: dict[str, str]) -> None:
    env = environment({**os.environ, **variables})
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HpcFlError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-2000:]}")
