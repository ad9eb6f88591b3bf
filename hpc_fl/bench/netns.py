"""Virtual hosts out of network namespaces: what a lab consists of, how it is made, removed and counted.

    namespace netlab-NAME-h1        namespace netlab-NAME-switch
    lo   eth0 (10.77.K.1) ======== p1 --+
    namespace netlab-NAME-h2            +-- bridge br0
    lo   eth0 (10.77.K.2) ======== p2 --+

Nothing is added to the machine's own network: both ends of each cable and the bridge are born in namespaces.
Imports the standard library only. For `hpc_fl.bench.netlab`, which is the door for everybody else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from hpc_fl.errors import ConfigError, HpcFlError

INTERFACE: Final = "eth0"
"""The name of every host's only interface beside its loopback."""
MAX_HOSTS: Final = 250
_PREFIX: Final = "netlab-"
_STEP_LIMIT: Final = 30.0
_KILL_LIMIT: Final = 10.0
_GLANCE: Final = 0.01
_BURST_SECONDS: Final = 1e-3
_QUEUE_SECONDS: Final = 20e-3
_UNITS: Final = {
    prefix + unit: scale * bits
    for unit, bits in (("bit", 1), ("bps", 8))
    for prefix, scale in (
        ("", 1), ("k", 10**3), ("m", 10**6), ("g", 10**9), ("t", 10**12),
        ("ki", 2**10), ("mi", 2**20), ("gi", 2**30), ("ti", 2**40),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A lab, built or to be built. `number` is its K of 10.77.K.0/24; `rate` as tc writes it, or none."""

    name: str
    ident: str
    number: int
    hosts: int
    rate: str
    mtu: int

    @property
    def network(self) -> str:
        return f"10.77.{self.number}.0/24"

    @property
    def host_names(self) -> list[str]:
        """NAME-h1, NAME-h2, ...: hosts of two labs never share a name, nor what programs derive from it."""
        return [f"{self.name}-h{host}" for host in range(1, self.hosts + 1)]

    def address(self, host: int) -> str:
        """The IPv4 address of host 1, 2, ..."""
        return f"10.77.{self.number}.{host}"


def bits_per_second(rate: str) -> float | None:
    """A rate in tc's notation as a number (``kbps`` is kilobytes there); None for ``none``.

    Raises ConfigError for what tc would not take, and for a percentage, which has no meaning here.
    """
    if rate == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([a-z]*)", rate.lower())
    bits = float(found[1]) * _UNITS.get(found[2] or "bit", 0) if found else 0
    if not bits:
        raise ConfigError(f"rate: got {rate!r}, expected none or what tc takes: 1gbit, 250mbit, 100mbps, ...")
    return bits


def namespace(host_name: str) -> str:
    """The namespace of a host (NAME-h1) or a switch (NAME-switch)."""
    return _PREFIX + host_name


def call(command: Sequence[str], text: str = "") -> str:
    """Run ip or tc to its end with `text` as input; its output. Raises HpcFlError with its own words."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=_STEP_LIMIT
        )
    except FileNotFoundError:
        raise ConfigError(why_not()) from None
    if done.returncode:
        raise HpcFlError(f"netlab: {' '.join(command)} failed: {' '.join(done.stderr.split())}")
    return done.stdout


def why_not(rate: str = "1gbit") -> str:
    """Why this machine and user cannot have a lab, as one line that says what to do; empty when they can."""
    if os.geteuid() != 0:
        return "netlab: network namespaces need root: use sudo, or a container started with --privileged"
    tools = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "setpriv": "util-linux"}
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"netlab: no {missing[0]} on PATH: apt-get install {tools[missing[0]]}"
    shape = "tc qdisc add dev lo root tbf rate 1gbit burst 64kb latency 20ms"
    probe = ["unshare", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
    for script, advice in (
        ("true", "this container may not make namespaces: start it with --privileged"),
        (
            "true" if rate == "none" else shape,
            "this kernel has no sch_tbf: --rate none leaves links unshaped",
        ),
    ):
        done = subprocess.run([*probe, script], capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            return f"netlab: {advice} ({(done.stderr.strip() or 'no reason given').splitlines()[0]})"
    return ""


def namespaces(name: str) -> list[str]:
    """The namespaces that a lab of this name has now, whole or half-made."""
    mine = re.compile(rf"{_PREFIX}{re.escape(name)}-(?:switch|h\d+)")
    known = (line.split()[0] for line in call(["ip", "netns", "list"]).splitlines() if line.strip())
    return [space for space in known if mine.fullmatch(space)]


def build(layout: Layout) -> None:
    """Make the lab's namespaces, cables and shapers. Raises HpcFlError; then some of them may be there."""
    switch = namespace(f"{layout.name}-switch")
    call(["ip", "netns", "add", switch])
    call(["ip", "-n", switch, "-batch", "-"], _lines(
        # No IPv6 and no multicast snooping: the counters shall see the ranks' traffic only.
        f"link add br0 mtu {layout.mtu} type bridge mcast_snooping 0",
        "link set br0 addrgenmode none",
        "link set br0 up",
    ))  # fmt: skip
    for number, host in enumerate(layout.host_names, 1):
        _build_host(layout, number, namespace(host), switch)


def _build_host(layout: Layout, number: int, space: str, switch: str) -> None:
    call(["ip", "netns", "add", space])
    port = f"p{number}"
    ends = f"netns {space} type veth peer name {port} mtu {layout.mtu} netns {switch}"
    call(["ip", "-batch", "-"], _lines(f"link add {INTERFACE} mtu {layout.mtu} {ends}"))
    call(["ip", "-n", switch, "-batch", "-"], _lines(
        f"link set {port} addrgenmode none", f"link set {port} master br0", f"link set {port} up"
    ))  # fmt: skip
    call(["ip", "-n", space, "-batch", "-"], _lines(
        "link set lo up",
        f"link set {INTERFACE} addrgenmode none",
        f"addr add {layout.address(number)}/24 dev {INTERFACE}",
        f"link set {INTERFACE} up",
    ))  # fmt: skip
    # The host's end holds back what it sends, the switch's end what it receives: full duplex at the rate.
    for where, device in ((space, INTERFACE), (switch, port)):
        if shape := _shape(layout):
            call(["tc", "-n", where, "qdisc", "add", "dev", device, "root", "tbf", *shape])


def _shape(layout: Layout) -> list[str]:
    """The options of the token bucket; none for an unshaped link."""
    rate = bits_per_second(layout.rate)
    if rate is None:
        return []
    # What is sent after a pause passes at once up to the burst, so it is short, but holds two packets. Four
    # hosts in a ring at 1gbit, plain TCP, each sending and receiving 60 MB: 0.96 to 0.99 of the rate is
    # payload with 1, 2 and 4 ms alike, on two cores with a load of 3 (of MTU 9000 the limit is 0.993).
    burst = max(2 * (layout.mtu + 14), int(rate / 8 * _BURST_SECONDS))
    queue = max(16 * layout.mtu, int(rate / 8 * _QUEUE_SECONDS))
    return ["rate", f"{rate:.0f}bit", "burst", f"{burst}b", "limit", f"{burst + queue}b"]


def remove(name: str) -> None:
    """Kill what runs in the lab's namespaces and delete them; a lab that is not there is no error."""
    spaces = namespaces(name)
    deadline = time.monotonic() + _KILL_LIMIT
    while pids := _pids(spaces):
        if time.monotonic() > deadline:
            raise HpcFlError(f"netlab: {pids} in lab {name!r} do not die, {_KILL_LIMIT:g} s after SIGKILL")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_GLANCE)
    for space in spaces:  # a namespace takes its interfaces along, and a cable goes with either of its ends
        call(["ip", "netns", "del", space])


def _pids(spaces: Sequence[str]) -> list[int]:
    return [int(word) for space in spaces for word in call(["ip", "netns", "pids", space]).split()]


def counters(layout: Layout) -> dict[str, dict[str, int]]:
    """Bytes and packets that each host's interface has received and sent, Ethernet headers included.

    The kernel hands TCP data over in pieces of up to 64 KB that are cut into packets further down: the
    count has one header for each piece. Above the payload it is 0.1% in long messages, more in short ones.
    """
    found = {}
    for host in layout.host_names:
        answer = call(["ip", "-n", namespace(host), "-j", "-s", "link", "show", "dev", INTERFACE])
        stats = json.loads(answer)[0]["stats64"]
        found[host] = {
            f"{way}_{what}": int(stats[way][what]) for way in ("rx", "tx") for what in ("bytes", "packets")
        }
    return found


def _lines(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)
