"""Gossip between hosts of a virtual cluster: its bytes, the asynchronous kinds, a run with a hierarchy."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from system.gossip_hosts import CASES

from hpc_fl.bench import netns
from hpc_fl.bench.netlab import NetLab

ROOT = Path(__file__).parents[2]
HOSTS = 3
LIMIT = 150.0


@pytest.mark.usefixtures("mpi")
def test_gossip_between_hosts(need: Callable[[object, str], None], tmp_path: Path) -> None:
    reason = netns.why_not("none")
    need(not reason, reason)
    command = [sys.executable, str(ROOT / "tests/system/gossip_hosts.py"), str(tmp_path)]
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    env = {"PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with NetLab(HOSTS, "none") as lab:
        done = lab.run(command, timeout=LIMIT, capture=True, env=env)
    assert done.returncode == 0, done.stderr
    *cases, run = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["case"] for one in cases] == list(CASES)
    for one in cases:
        assert one["bytes"] > 1_000_000, one
        assert one["off"] < 0.03, one
    assert run == {"groups": HOSTS, "finite": True}
