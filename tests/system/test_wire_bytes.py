"""The ledger against the network: what the interfaces of virtual hosts count is what it says, within 3%."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

import pytest

from hpc_fl.bench import netns
from hpc_fl.bench.collective_ranks import Plan
from hpc_fl.bench.netlab import NetLab

HOSTS = 3
LIMIT = 120.0
SCHEMES = ("ring", "bf16", "onebit", "topk 1%")
PLANS = [
    Plan(1_000_000, SCHEMES[:2], times=2, warmup=1, wire=True),
    Plan(12_000_000, SCHEMES[2:], times=2, warmup=1, wire=True),
]


@pytest.mark.usefixtures("mpi")
def test_the_ledger_is_what_the_interfaces_counted(need: Callable[[object, str], None]) -> None:
    reason = netns.why_not("none")
    need(not reason, reason)
    plans = json.dumps([asdict(plan) for plan in PLANS])
    command = [sys.executable, "-m", "hpc_fl.bench.collective_ranks", plans]
    with NetLab(HOSTS, "none") as lab:
        done = lab.run(command, timeout=LIMIT, capture=True)
        assert done.returncode == 0, done.stderr
        counted = sum(host["tx_bytes"] for host in lab.counters().values())
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["name"] for one in found] == list(SCHEMES)
    for one in found:
        assert one["bytes"] > 1_000_000, one
        assert one["off"] < 0.03, one
        assert one["wire"] > one["bytes"], one  # headers of packets, at least
    # The ranks read the counters that the lab sees from outside: timed calls are a part of all that was sent.
    assert counted > 2 * sum(one["wire"] for one in found)
