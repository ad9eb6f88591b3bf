"""The virtual cluster: hosts of their own, links that keep their rate, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpc_fl.bench import netns
from hpc_fl.bench.netlab import STATE, NetLab
from hpc_fl.errors import HpcFlError, TransportTimeout

SCRIPT = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "netlab.py")]
LIMIT = 60.0
EXCHANGE = """
import sys, time
from mpi4py import MPI
world, size = MPI.COMM_WORLD, int(sys.argv[1])
left, right = (world.rank - 1) % world.size, (world.rank + 1) % world.size
world.Barrier()
start = time.perf_counter()
world.Sendrecv(bytearray(size), right, 0, bytearray(size), left, 0)
print(time.perf_counter() - start)
"""
WHERE = """
import json, os
from socket import gethostbyname, gethostname
from mpi4py import MPI
world = MPI.COMM_WORLD
near = world.Split_type(MPI.COMM_TYPE_SHARED)
total = world.allreduce(world.rank)
names = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "MASTER_ADDR", "MINE")
env = {name: os.environ.get(name) for name in names}
here, links = gethostname(), sorted(os.listdir("/sys/class/net"))
segments = len([name for name in os.listdir("/dev/shm") if name.startswith("sm_segment")])
row = [world.rank, here, gethostbyname(here), links, near.size, segments, total, env]
print(json.dumps(row), flush=True)
"""
EAGER = """
import sys, time
import numpy as np
from hpc_fl.comm import runtime
runtime.start()
from mpi4py import MPI
from hpc_fl.collectives.columns import SEGMENT
world, segment, word = MPI.COMM_WORLD, np.zeros(SEGMENT, np.uint8), np.zeros(1, np.uint8)
if world.rank == 0:
    request, end = world.Isend(segment, 1, tag=1), time.monotonic() + float(sys.argv[1])
    while not (gone := request.Test()) and time.monotonic() < end:
        pass
    print("gone" if gone else "waits")
    world.Send(word, 1, tag=2)
    request.Wait()
elif world.rank == 1:
    world.Recv(word, 0, tag=2)
    world.Recv(segment, 0, tag=1)
"""
GLOO = """
import os, torch, torch.distributed as dist
rank, size = int(os.environ["OMPI_COMM_WORLD_RANK"]), int(os.environ["OMPI_COMM_WORLD_SIZE"])
dist.init_process_group("gloo", rank=rank, world_size=size)
x = torch.full((250_000,), float(rank + 1))
dist.all_reduce(x)
assert x.eq(3).all()
dist.destroy_process_group()
"""
# Ignores every signal that can be ignored, has a child in a session of its own, and never ends.
STUBBORN = "trap '' TERM INT HUP; setsid sleep 300 & while :; do sleep 0.2; done # "


@pytest.fixture(scope="module")
def machine(need: Callable[[object, str], None]) -> None:
    reason = netns.why_not()
    need(not reason, reason)


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[NetLab]:
    """Three hosts, for tests that leave them as they were."""
    for wanted in ("machine", "mpi"):
        request.getfixturevalue(wanted)
    with NetLab(3, "200mbit") as lab:
        yield lab


def run(lab: NetLab, program: str, *arguments: object, per_host: int = 1) -> list[str]:
    """The lines that the ranks printed."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = lab.run(command, per_host=per_host, timeout=LIMIT, capture=True, env={"MINE": "a b,c"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def marked(mark: str) -> list[int]:
    """The processes with this mark in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes() and int(file.parent.name) != os.getpid():
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def wait_until(holds: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def assert_gone(name: str) -> None:
    assert netns.namespaces(name) == []
    assert not (STATE / name).exists()
    assert marked(f"/{name}/") == []
    assert marked(f"{name}-h") == []


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SCRIPT, *words], capture_output=True, text=True, check=False, timeout=LIMIT)


@pytest.mark.parametrize("per_host", [1, 2])
def test_every_host_is_a_node_of_its_own(shared: NetLab, per_host: int) -> None:
    rows = sorted(json.loads(line) for line in run(shared, WHERE, per_host=per_host))
    layout, size = shared.layout, 3 * per_host
    for rank, (seen, host, address, interfaces, near, segments, total, env) in enumerate(rows):
        assert (seen, near, total) == (rank, per_host, size * (size - 1) // 2)
        assert host == layout.host_names[rank // per_host]
        assert address == layout.address(rank // per_host + 1)
        assert interfaces == ["eth0", "lo"]
        assert segments == (per_host if per_host > 1 else 0)  # shared memory inside a host, and of it only
        assert env == {
            "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "MASTER_ADDR": layout.address(1),
            "MINE": "a b,c",
        }  # fmt: skip


def test_ranks_are_spread_evenly(shared: NetLab) -> None:
    done = shared.run(["hostname"], ranks=5, timeout=LIMIT, capture=True)
    hosts = [done.stdout.split().count(host) for host in shared.layout.host_names]
    assert hosts == [2, 2, 1]
    alone = shared.run(["hostname"], ranks=1, timeout=LIMIT, capture=True)
    assert alone.stdout == f"{shared.layout.host_names[0]}\n"


def test_the_interfaces_count_what_is_sent_and_the_rate_is_kept(shared: NetLab) -> None:
    size, ends = 5_000_000, 200_000  # MPI's start and end
    run(shared, EXCHANGE, 1)
    before = shared.counters()
    idle = shared.counters()
    assert idle == before  # nobody else is on these links
    seconds = [float(line) for line in run(shared, EXCHANGE, size)]
    for host, now in shared.counters().items():
        for way in ("rx_bytes", "tx_bytes"):
            assert size <= now[way] - before[host][way] <= 1.03 * size + ends
    assert shared.bits_per_second == 200e6
    # A burst of 1 ms, and the ranks leave the barrier one after the other.
    assert min(seconds) > 0.9 * size * 8 / 200e6


@pytest.mark.parametrize(("limit", "found"), [(None, "gone"), (65536, "waits")], ids=["ours", "the user's"])
def test_a_segment_leaves_without_asking_the_receiver(
    shared: NetLab, limit: int | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the user has told Open MPI another limit; see hpc_fl/comm/defaults.py."""
    if limit is not None:
        monkeypatch.setenv("OMPI_MCA_btl_tcp_eager_limit", str(limit))
    patience = 20 if limit is None else 1  # at 200 Mbit/s it takes 10 ms
    assert run(shared, EAGER, patience) == [found]


def test_gloo_runs(shared: NetLab) -> None:
    before = shared.counters()
    done = shared.run([sys.executable, "-c", GLOO], ranks=2, timeout=LIMIT, capture=True)
    assert done.returncode == 0, done.stderr
    first = shared.layout.host_names[0]
    assert shared.counters()[first]["tx_bytes"] - before[first]["tx_bytes"] > 1_000_000


def test_two_labs_do_not_meet(shared: NetLab) -> None:
    reach = "import socket, sys; socket.create_connection((sys.argv[1], 7), timeout=2)"
    with NetLab(2, "none") as other:
        assert other.layout.network != shared.layout.network
        assert other.bits_per_second is None
        for one, to in ((shared, other), (other, shared), (shared, shared)):
            command = [sys.executable, "-c", reach, to.layout.address(2)]
            done = one.execute(1, command, timeout=LIMIT, capture=True)
            known = "refused" if one is to else "unreachable"  # there, with nobody listening; or not there
            assert known in done.stderr
        assert len(run(other, EXCHANGE, 1000)) == 2
        name = other.layout.name
    assert_gone(name)
    assert len(run(shared, EXCHANGE, 1000)) == 3


def test_a_time_limit_ends_all_that_the_command_started_and_nothing_else(shared: NetLab) -> None:
    mark, other = uuid.uuid4().hex, uuid.uuid4().hex
    sleeper = subprocess.Popen([
        *SCRIPT, "run", "--name", shared.layout.name, "--", "sh", "-c", f"sleep 300 # {other}"
    ])  # fmt: skip
    try:
        with pytest.raises(TransportTimeout, match="still running after 2 s, killed: sh"):
            shared.run(["sh", "-c", STUBBORN + mark], timeout=2, capture=True)
        assert marked(mark) == []
        wait_until(lambda: len(marked(f"sleep 300 # {other}")) >= 3, "the other command runs")
        assert sleeper.poll() is None
    finally:
        sleeper.terminate()
        assert sleeper.wait(LIMIT) == 128 + signal.SIGTERM
    wait_until(lambda: marked(other) == [], "its command ends with the script")


@pytest.mark.usefixtures("machine", "mpi")
def test_the_command_line() -> None:
    name = f"c{uuid.uuid4().hex[:8]}"
    try:
        assert cli("up", "--name", name, "--hosts", "2", "--ttl", "100").returncode == 0
        again = cli("up", "--name", name)
        assert again.returncode == 2
        assert "there already" in again.stderr
        assert cli("run", "--name", name, "--", "sh", "-c", "exit 7").returncode == 7
        slow = cli("run", "--name", name, "--timeout", "1", "--", "sh", "-c", STUBBORN + name)
        assert slow.returncode == 124
        there = cli(
            "exec", "--name", name, "--env", "A=b", "2", "--", "sh", "-c", "hostname; echo $A; exit 3"
        )
        assert (there.returncode, there.stdout) == (3, f"{name}-h2\nb\n")
        assert set(json.loads(cli("counters", "--name", name).stdout)) == {f"{name}-h1", f"{name}-h2"}
        left = NetLab.attach(name).layout
        stray = subprocess.Popen(["ip", "netns", "exec", f"netlab-{left.host_names[0]}", "sleep", "300"])
    finally:
        assert cli("down", "--name", name).returncode == 0
    assert stray.wait(LIMIT) == -signal.SIGKILL
    wait_until(lambda: not marked(f"/{name}"), "the watch goes with the lab")
    assert_gone(name)
    assert cli("down", "--name", name).returncode == 0
    gone = cli("run", "--name", name, "--", "true")
    assert gone.returncode == 2
    assert gone.stderr.count("\n") == 1


@pytest.mark.usefixtures("machine", "mpi")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_with_leaves_nothing(signum: signal.Signals) -> None:
    name = f"w{uuid.uuid4().hex[:8]}"
    words = ["with", "--name", name, "--hosts", "2", "--", "sh", "-c", STUBBORN + name]
    process = subprocess.Popen([*SCRIPT, *words], process_group=0)
    wait_until(lambda: len(marked("done # " + name)) >= 5, "ranks run on both hosts")
    process.send_signal(signum)
    assert process.wait(LIMIT) == (-signum if signum == signal.SIGKILL else 128 + signum)
    if signum == signal.SIGKILL:  # the watch does it, a moment later
        wait_until(lambda: not (STATE / name).exists(), "the lab goes with its owner")
        wait_until(lambda: not marked(name), "the watch ends")
    assert_gone(name)
    assert marked(name) == []


@pytest.mark.usefixtures("machine", "mpi")
def test_labs_made_at_once_are_apart() -> None:
    command = [*SCRIPT, "with", "--hosts", "2", "--", sys.executable, "-c", WHERE]
    labs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [lab.communicate(timeout=LIMIT)[0] for lab in labs]
    assert [lab.returncode for lab in labs] == [0, 0, 0]
    seen = [{tuple(json.loads(line)[1:3]) for line in output.splitlines()} for output in outputs]
    assert [len(hosts) for hosts in seen] == [2, 2, 2]
    assert len(set().union(*seen)) == 6


@pytest.mark.usefixtures("machine")
def test_a_lab_ends_with_its_time() -> None:
    name = f"t{uuid.uuid4().hex[:8]}"
    NetLab(1, name=name, ttl=1).up()
    wait_until(lambda: not (STATE / name).exists(), "the lab goes")
    wait_until(lambda: not marked(name), "the watch ends")
    assert_gone(name)


@pytest.mark.usefixtures("machine")
def test_half_a_lab_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = NetLab(3)
    build = netns._build_host

    def broken(layout: netns.Layout, number: int, space: str, switch: str) -> None:
        build(layout, number, space, switch)
        if number == 2:
            raise HpcFlError("no more")

    monkeypatch.setattr(netns, "_build_host", broken)
    with pytest.raises(HpcFlError, match="no more"):
        lab.up()
    wait_until(lambda: not marked(lab.layout.name + "n"), "the watch ends")
    assert_gone(lab.layout.name)
    lab.down()


def test_rates_are_what_tc_understands(shared: NetLab) -> None:
    for rate in ("1gbit", "250mbit", "1.5Mbit", "100mbps", "2mibit", "64kibps", "5000000"):
        lab = NetLab(1, rate)
        space = netns.namespace(shared.layout.host_names[0])
        shape = ["rate", rate, "burst", "100kb", "latency", "20ms"]
        netns.call(["tc", "-n", space, "qdisc", "replace", "dev", "lo", "root", "tbf", *shape])
        shown = json.loads(netns.call(["tc", "-n", space, "-j", "qdisc", "show", "dev", "lo"]))
        assert lab.bits_per_second == pytest.approx(shown[0]["options"]["rate"] * 8, rel=1e-6)
    netns.call(["tc", "-n", space, "qdisc", "del", "dev", "lo", "root"])


def test_the_state_is_kept_from_others(shared: NetLab) -> None:
    assert shared.folder.parent.stat().st_mode & 0o077 == 0
