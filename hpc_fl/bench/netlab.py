"""A virtual cluster on one machine: hosts with links of a given rate between them, for MPI and others.

    with NetLab(hosts=4, rate="1gbit") as lab:
        lab.run([sys.executable, "program.py"], timeout=60)     # one rank on each host
        print(lab.counters())

Links are shaped by tbf and have no latency of their own (that takes netem). All hosts share this machine's
cores and memory. Needs root and iproute2. Imports the standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import count
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

from hpc_fl.bench import netns
from hpc_fl.bench.netns import INTERFACE, MAX_HOSTS, Layout
from hpc_fl.bench.whole import run_whole
from hpc_fl.comm.launch import environment, find_mpirun
from hpc_fl.errors import ConfigError

STATE: Final = Path("/run/hpc_fl-netlab")
"""A folder for each lab, and the lock. Beside /run/netns: who sees the namespaces sees this, too."""
_NAMES: Final = count()
_ROOT: Final = Path(__file__).parents[2]

# Arguments: HOST COMMAND... A host has its own network, name (else Open MPI takes all hosts for one node),
# shared memory, and names for the other hosts.
_ENTER: Final = """\
host=$1; shift
exec ip netns exec {prefix}"$host" unshare --uts sh -c '
    echo "$0" >/proc/sys/kernel/hostname && mount -t tmpfs tmpfs /dev/shm &&
    mount --bind {folder}/hosts /etc/hosts && exec "$@"' "$host" "$@"
"""
# mpirun calls it as it would call ssh.
_AGENT: Final = """\
host=$1; shift
exec sh {folder}/enter "$host" sh -c "$*"
"""
# Takes the lab down at the end of $0 seconds, or when its owner has died. Its input ends with the owner, or
# says that there is none; then down() wakes it through the pipe named gone.
_WATCH: Final = """\
timeout "$0" sh -c 'read -r word; [ "$word" = keep ] && : <"$0"/gone' "$1"
[ -e "$1" ] && shift && exec "$@"
"""


class NetLab:
    """A lab: `hosts` virtual hosts, each on a full-duplex link of `rate` to one switch.

    rate: as tc writes it ("1gbit", "250mbit", ...), or "none" for links as fast as this machine. mtu: in
    bytes. ttl: seconds after which the lab is taken down whatever happens. name: lower-case letters and
    digits; one is made up where it is empty. As a context manager the lab also ends with this process.
    """

    def __init__(
        self, hosts: int = 4, rate: str = "1gbit", *, name: str = "", mtu: int = 9000, ttl: float = 3600.0
    ) -> None:
        name = name or f"p{os.getpid()}n{next(_NAMES)}"
        _check_name(name)
        if not 1 <= hosts <= MAX_HOSTS:
            raise ConfigError(f"hosts: got {hosts}, expected 1 to {MAX_HOSTS}")
        if not 576 <= mtu <= 65521:
            raise ConfigError(f"mtu: got {mtu}, expected 576 to 65521 bytes")
        if not 0 < ttl < inf:
            raise ConfigError(f"ttl: got {ttl:g}, expected seconds, more than 0")
        netns.bits_per_second(rate)
        self.layout = Layout(name, uuid.uuid4().hex, 0, hosts, rate, mtu)
        self.ttl = ttl
        self._watch: subprocess.Popen[bytes] | None = None

    @classmethod
    def attach(cls, name: str) -> NetLab:
        """A lab that is up. Raises ConfigError when there is none of this name."""
        _check_name(name)
        try:
            layout = Layout(**json.loads((STATE / name / "lab.json").read_text()))
        except (OSError, ValueError):
            raise ConfigError(_no_lab(name)) from None
        lab = cls(layout.hosts, layout.rate, name=name, mtu=layout.mtu)
        lab.layout = layout
        return lab

    @property
    def folder(self) -> Path:
        return STATE / self.layout.name

    @property
    def bits_per_second(self) -> float | None:
        """The rate of each link in each direction; None where it is not shaped."""
        return netns.bits_per_second(self.layout.rate)

    def up(self, *, keep: bool = True) -> None:
        """Make the lab. keep: it outlives this process. Raises ConfigError where this machine or user cannot
        have one, or the name is taken, and HpcFlError where a step failed; nothing is left of it then.
        """
        name = self.layout.name
        if reason := netns.why_not(self.layout.rate):
            raise ConfigError(reason)
        with _locked():
            if self.folder.exists() or netns.namespaces(name):
                raise ConfigError(f"name: lab {name!r} is there already: netlab.py down --name {name}")
            try:
                self._prepare()
                self._watch = watch = self._start_watch()
                netns.build(self.layout)
                if keep and watch.stdin is not None:
                    watch.stdin.write(b"keep\n")
                    watch.stdin.close()
            except BaseException:
                _remove(name)
                raise

    def _prepare(self) -> None:
        """Choose a free network and write the lab's folder."""
        taken = {json.loads(file.read_text())["number"] for file in STATE.glob("*/lab.json")}
        number = next((number for number in range(1, 255) if number not in taken), None)
        if number is None:
            raise ConfigError("netlab: 254 labs are up, and there are no more networks: take some down")
        self.layout = layout = replace(self.layout, number=number)
        self.folder.mkdir()
        (self.folder / "lab.json").write_text(json.dumps(asdict(layout)))
        words = {"folder": self.folder, "prefix": netns.namespace("")}
        (self.folder / "enter").write_text(_ENTER.format(**words))
        (self.folder / "agent").write_text(_AGENT.format(**words))
        known = [f"{layout.address(n)} {host}" for n, host in enumerate(layout.host_names, 1)]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, ""]))
        os.mkfifo(self.folder / "gone")

    def _start_watch(self) -> subprocess.Popen[bytes]:
        end = [sys.executable, "-c", "import sys; from hpc_fl.bench import netlab; netlab.end(*sys.argv[1:])"]
        return subprocess.Popen(
            ["sh", "-c", _WATCH, f"{self.ttl:.3f}", self.folder, *end, self.layout.name, self.layout.ident],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            # In a session of its own: what ends this process's group must not end the watch.
            start_new_session=True, cwd="/", env=os.environ | {"PYTHONPATH": str(_ROOT)},
        )  # fmt: skip

    def down(self) -> None:
        """Kill what runs in the lab and remove it; no error when it is gone already."""
        end(self.layout.name)
        if self._watch is not None:
            if self._watch.stdin is not None:
                self._watch.stdin.close()
            self._watch.wait()
            self._watch = None

    def __enter__(self) -> Self:
        self.up(keep=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def counters(self) -> dict[str, dict[str, int]]:
        """For each host: rx_bytes, tx_bytes, rx_packets and tx_packets of its interface since up()."""
        return netns.counters(self.layout)

    def run(
        self,
        command: Sequence[str],
        *,
        ranks: int | None = None,
        per_host: int = 1,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        capture: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run an MPI program with `per_host` ranks on each host, or `ranks` in all, spread evenly.

        The ranks of a host are neighbours and use shared memory; between hosts it is TCP. env: for all
        ranks. options: further ones for mpirun. capture: keep stdout and stderr instead of passing them on.
        Raises TransportTimeout after `timeout` seconds; then, as after every other end, nothing runs on.
        """
        total = len(self.layout.host_names) * per_host if ranks is None else ranks
        if total < 1:
            raise ConfigError(f"ranks: got {total}, expected 1 or more")
        if not self.folder.exists():
            raise ConfigError(_no_lab(self.layout.name))
        with TemporaryDirectory(prefix="run-", dir=self.folder, ignore_cleanup_errors=True) as sessions:
            launcher = [*self._mpirun(total, sessions), *options]
            for variable in self._variables() | dict(env or {}):
                launcher += ["-x", variable]
            return self._call(1, launcher, command, timeout, env, capture)

    def execute(
        self,
        host: int,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        capture: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on host 1, 2, ... without MPI; otherwise like run()."""
        if not 1 <= host <= self.layout.hosts:
            raise ConfigError(f"host: got {host}, expected 1 to {self.layout.hosts}")
        if not self.folder.exists():
            raise ConfigError(_no_lab(self.layout.name))
        return self._call(host, [], command, timeout, env, capture)

    def _call(
        self,
        host: int,
        launcher: Sequence[str],
        command: Sequence[str],
        timeout: float | None,
        env: Mapping[str, str] | None,
        capture: bool,
    ) -> subprocess.CompletedProcess[str]:
        enter = ["sh", str(self.folder / "enter"), self.layout.host_names[host - 1]]
        full = environment() | self._variables() | dict(env or {})
        what = f"{' '.join(command)} in lab {self.layout.name}"
        return run_whole([*enter, *launcher, *command], what=what, env=full, timeout=timeout, capture=capture)

    def _variables(self) -> dict[str, str]:
        """What programs on the hosts need to know: where the network is, and that they share few cores."""
        return {
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "NCCL_SOCKET_IFNAME": INTERFACE,
            "HOROVOD_GLOO_IFACE": INTERFACE,
            "MASTER_ADDR": self.layout.address(1),
            "MASTER_PORT": "29500",
        }

    def _mpirun(self, ranks: int, sessions: str) -> list[str]:
        """mpirun and its options. `sessions`: the folder for its own files, which a killed run leaves."""
        each, more = divmod(ranks, self.layout.hosts)
        shares = [(host, each + (k < more)) for k, host in enumerate(self.layout.host_names)]
        links = "tcp,self,sm" if shares[0][1] > 1 else "tcp,self"
        network = self.layout.network
        return [
            str(find_mpirun()), "-n", str(ranks),
            "--host", ",".join(f"{host}:{share}" for host, share in shares if share),
            "--prtemca", "plm_ssh_agent", f"sh {self.folder / 'agent'}",
            "--prtemca", "prte_if_include", network, "--prtemca", "prte_tmpdir_base", sessions,
            "--mca", "pml", "ob1", "--mca", "btl", links, "--mca", "btl_tcp_if_include", network,
            "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1",
        ]  # fmt: skip


def end(name: str, ident: str = "") -> None:
    """Take a lab down, whole or half-made; with `ident` only if it is still that one. Idempotent."""
    _check_name(name)
    with _locked():
        file = STATE / name / "lab.json"
        if not ident or (file.exists() and json.loads(file.read_text())["ident"] == ident):
            _remove(name)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z0-9]{1,20}", name):
        raise ConfigError(f"name: got {name!r}, expected 1 to 20 lower-case letters and digits")


def _no_lab(name: str) -> str:
    return f"name: no lab {name!r} is up; make it: netlab.py up --name {name}"


def _remove(name: str) -> None:
    netns.remove(name)
    with suppress(OSError):  # nobody listens
        os.close(os.open(STATE / name / "gone", os.O_WRONLY | os.O_NONBLOCK))
    shutil.rmtree(STATE / name, ignore_errors=True)


@contextmanager
def _locked() -> Iterator[None]:
    """One process at a time makes or removes a lab."""
    if os.geteuid() != 0:
        raise ConfigError(netns.why_not())
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
