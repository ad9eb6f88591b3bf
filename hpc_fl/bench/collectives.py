"""``hpc-fl bench collectives``: reductions beside Horovod's, gloo's and raw MPI's, in the same job.

On the virtual cluster (``where=lab``; needs root and iproute2), where the network is the bottleneck, and in
this machine's shared memory (``where=local``), where the computing is: docs/benchmarks/collectives.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from hpc_fl.bench import netns
from hpc_fl.bench.collective_cases import CASES, DENSE, PEERS
from hpc_fl.bench.collective_peers import installed
from hpc_fl.bench.collective_ranks import RANKS, Plan, Sample, as_json
from hpc_fl.bench.collective_records import SMALL, Place, records_of
from hpc_fl.bench.collective_table import print_table
from hpc_fl.bench.launching import run_in_lab, run_worker
from hpc_fl.bench.netlab import NetLab
from hpc_fl.bench.options import completed, names, number, numbers
from hpc_fl.bench.record import Record
from hpc_fl.errors import ConfigError, TransportTimeout

_LAB_N: Final = 25_000_000
_LOCAL_N: Final = 1 << 24
_SWEEP_N: Final = 1_000_000
_SMALL_REPEATS: Final = 100
_TIME_LIMIT: Final = 1800.0
_HANGS_AFTER: Final = 600.0
_ENDURING: Final = "lowrank 4"

show = print_table


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``where=lab`` or ``local`` (default: both, where this machine can have a lab); ``n=25e6,...``
    elements; ``hosts=4``, ``rate=1gbit`` of the lab; ``ranks=2`` in shared memory; ``p=2,4,8`` ranks of 1
    million elements there, more than there are cores; ``schemes=onebit,...``; ``times=5`` calls of each after
    ``warmup=8``; ``peers=0`` to leave the others out; ``runs=50`` of PowerSGD in the lab; ``plot=FILE``.
    """
    asked = Asked.read(options)
    records: list[Record] = []
    for place in asked.places():
        samples = _on_lab(asked) if place.name == "lab" else _locally(asked)
        records += records_of(place, samples, PEERS if asked.peers else ())
    if asked.plot is not None:
        from hpc_fl.bench.collective_plot import draw

        draw(records, asked.plot)
    return records


@dataclass(frozen=True)
class Asked:
    """The options, read."""

    where: str
    n: tuple[int, ...]
    hosts: int
    rate: str
    ranks: int
    sweep: tuple[int, ...]
    schemes: tuple[str, ...]
    times: int
    warmup: int
    peers: bool
    runs: int
    plot: Path | None

    @classmethod
    def read(cls, options: Mapping[str, str]) -> Self:
        """Raises :class:`ConfigError` for an option that there is not, or a value that it cannot have."""
        usual = {"where": "both", "n": "", "hosts": "4", "rate": "1gbit", "ranks": "2", "p": "2,4,8"}
        usual |= {
            "schemes": ",".join(CASES),
            "times": "5",
            "warmup": "8",
            "peers": "1",
            "runs": "50",
            "plot": "",
        }
        got = completed("collectives", usual, options)
        if got["where"] not in ("lab", "local", "both"):
            raise ConfigError(f"where: got {got['where']!r}, expected lab, local or both")
        single = {"hosts": 2, "ranks": 2, "times": 1, "warmup": 1, "runs": 0}
        return cls(
            where=got["where"],
            n=numbers("n", got["n"], 8),
            rate=got["rate"],
            sweep=numbers("p", got["p"], 2),
            schemes=names("schemes", got["schemes"], CASES),
            peers=got["peers"] != "0",
            plot=Path(got["plot"]) if got["plot"] else None,
            **{key: number(key, got[key], least) for key, least in single.items()},
        )

    def places(self) -> list[Place]:
        """Where to measure. Raises :class:`ConfigError` where a lab is asked for and cannot be had."""
        places = []
        if self.where != "local":
            reason = netns.why_not(self.rate)
            if reason and self.where == "lab":
                raise ConfigError(reason)
            if reason:
                print(f"no virtual cluster, in shared memory only: {reason}")
            else:
                places.append(Place("lab", netns.bits_per_second(self.rate)))
        return places + ([] if self.where == "lab" else [Place("local", None)])

    def plan(self, n: int, **more: Any) -> Plan:
        """All that was asked for, at n elements; ``more`` takes the place of what was asked for."""
        peers = [peer for peer in PEERS if self.peers and installed(peer)]
        usual: dict[str, Any] = {"schemes": self.schemes, "peers": peers}
        usual |= {"times": self.times, "warmup": self.warmup}
        return Plan(n=n, **(usual | more))

    def small(self) -> Plan:
        """Calls of 4 KB, which take as long as their overhead does."""
        schemes = [name for name in self.schemes if name in DENSE]
        return self.plan(SMALL, schemes=schemes, warmup=1, repeats=_SMALL_REPEATS)


def _on_lab(asked: Asked) -> list[Sample]:
    plans = [*(asked.plan(n, wire=True) for n in asked.n or (_LAB_N,)), asked.small()]
    with NetLab(asked.hosts, asked.rate) as lab:
        samples = _run_on(lab, plans)
        if asked.runs and _ENDURING in asked.schemes:
            samples += _endure(lab, asked, plans[0].n)
    return samples


def _run_on(lab: NetLab, plans: Sequence[Plan], limit: float = _TIME_LIMIT) -> list[Sample]:
    """One job."""
    return [Sample(**found) for found in run_in_lab(lab, RANKS, [as_json(plans)], limit)]


def _endure(lab: NetLab, asked: Asked, n: int) -> list[Sample]:
    """In a job of its own, so that one that hangs costs no other measurement."""
    plan = asked.plan(n, schemes=(), peers=(), endure={_ENDURING: asked.runs})
    try:
        return _run_on(lab, [plan], _HANGS_AFTER)
    except TransportTimeout:
        return [Sample(f"{_ENDURING}, {asked.runs} runs", n, asked.hosts, 1, _HANGS_AFTER, ended=0)]


def _locally(asked: Asked) -> list[Sample]:
    plans = {asked.ranks: [*(asked.plan(n) for n in asked.n or (_LOCAL_N,)), asked.small()]}
    few = asked.plan(min([_SWEEP_N, *asked.n]))
    for ranks in asked.sweep:
        if few not in plans.setdefault(ranks, []):
            plans[ranks].append(few)
    return [
        Sample(**found)
        for ranks, some in plans.items()
        for found in run_worker(RANKS, [as_json(some)], ranks, _TIME_LIMIT)
    ]
