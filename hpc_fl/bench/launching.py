"""Benchmarks run in processes of their own: nothing that one of them imported or cached helps the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hpc_fl.comm.launch import environment, mpirun_command
from hpc_fl.errors import HpcFlError

if TYPE_CHECKING:
    from hpc_fl.bench.netlab import NetLab


def run_worker(
    module: str, arguments: Sequence[str], ranks: int, timeout: float = 1800.0
) -> list[dict[str, Any]]:
    """Runs ``python -m module arguments`` on ``ranks`` ranks (1: without mpirun); the JSON objects that it
    printed, a line each.

    Choices that a run keeps for the next one (the executor) are made anew. Raises :class:`HpcFlError` with
    the worker's own words when it fails.
    """
    program = [sys.executable, "-m", module, *arguments]
    command = program if ranks == 1 else mpirun_command(ranks, program)
    with tempfile.TemporaryDirectory() as cache:
        env = environment({**os.environ, "XDG_CACHE_HOME": cache})
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    return _printed(done, " ".join(command))


def run_in_lab(lab: NetLab, module: str, arguments: Sequence[str], timeout: float) -> list[dict[str, Any]]:
    """The same with one rank on each host of a virtual cluster. Raises also :class:`TransportTimeout` after
    ``timeout`` seconds.
    """
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", module, *arguments]
        done = lab.run(command, timeout=timeout, capture=True, env={"XDG_CACHE_HOME": cache})
    return _printed(done, f"{module} in the lab")


def _printed(done: subprocess.CompletedProcess[str], what: str) -> list[dict[str, Any]]:
    if done.returncode:
        raise HpcFlError(f"{what} failed with {done.returncode}:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
