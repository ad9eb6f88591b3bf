"""``hpc-fl bench gossip``: what gossip reaches beside FedAvg, and how long an exchange with neighbours takes.

``digits``: accuracies (:mod:`hpc_fl.bench.gossip_digits`). ``lab``: exchanges on the virtual cluster beside
Horovod's allreduce and the link's limit; needs root and iproute2. ``small``: exchanges of 4 KB in shared
memory, beside MPI's own Sendrecv in the same job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from hpc_fl.bench import gossip_digits, netns
from hpc_fl.bench.accuracy import Trial
from hpc_fl.bench.collective_cases import HOROVOD, SENDRECV
from hpc_fl.bench.collective_peers import installed
from hpc_fl.bench.collective_ranks import RANKS, Plan, Sample, as_json
from hpc_fl.bench.collective_records import SMALL, Place, records_of
from hpc_fl.bench.gossip_cases import LAB, MODULE, SHORT
from hpc_fl.bench.launching import run_in_lab, run_worker
from hpc_fl.bench.netlab import NetLab
from hpc_fl.bench.options import completed, names, number, numbers
from hpc_fl.bench.record import Record
from hpc_fl.config.load import DIGITS
from hpc_fl.errors import ConfigError

_TIME_LIMIT: Final = 1800.0
_ROW: Final = 100
"""Small exchanges in a row; then it is the others' turn."""

Options = Mapping[str, str]


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``where=digits,lab,small``. Of digits: ``case=ring,choco-sign,...``; ``seeds=0,1,2``;
    ``rounds=100``; ``ranks=1`` of each run; ``jobs`` at once (the number of cores); ``config=FILE``. Of the
    lab: ``schemes=one-peer,...``; ``n=25e6`` elements; ``hosts=4``; ``rate=1gbit``; ``times=5`` calls after
    ``warmup=8``; ``peers=0`` without Horovod. Of small: ``exchanges=1000``.

    Raises :class:`ConfigError` for an option that there is not, or a value that it cannot have.
    """
    got = completed("gossip", _usual(), options)
    return [record for place in names("where", got["where"], _PLACES) for record in _PLACES[place](got)]


def _usual() -> dict[str, str]:
    return {
        "where": ",".join(_PLACES),
        "case": ",".join(gossip_digits.CASES),
        "seeds": "0,1,2",
        "rounds": "100",
        "ranks": "1",
        "jobs": str(len(os.sched_getaffinity(0))),
        "config": str(DIGITS),
        "schemes": ",".join(LAB),
        "n": "25e6",
        "hosts": "4",
        "rate": "1gbit",
        "times": "5",
        "warmup": "8",
        "peers": "1",
        "exchanges": "1000",
    }


def _digits(got: Options) -> list[Record]:
    trial = Trial(
        Path(got["config"]),
        number("rounds", got["rounds"], 1),
        number("ranks", got["ranks"], 1),
        numbers("seeds", got["seeds"], 0),
    )
    cases = names("case", got["case"], gossip_digits.CASES)
    return gossip_digits.records_of(gossip_digits.Asked(cases, trial, number("jobs", got["jobs"], 1)))


def _lab(got: Options) -> list[Record]:
    if reason := netns.why_not(got["rate"]):
        raise ConfigError(f"where: no virtual cluster: {reason}; expected where=digits,small")
    peers = (HOROVOD,) if got["peers"] != "0" else ()
    plan = Plan(
        number("n", got["n"], 8),
        names("schemes", got["schemes"], LAB),
        [peer for peer in peers if installed(peer)],
        times=number("times", got["times"], 1),
        warmup=number("warmup", got["warmup"], 1),
        wire=True,
        cases=MODULE,
    )
    with NetLab(number("hosts", got["hosts"], 2), got["rate"]) as lab:
        samples = [Sample(**found) for found in run_in_lab(lab, RANKS, [as_json([plan])], _TIME_LIMIT)]
    return records_of(Place("lab", netns.bits_per_second(got["rate"])), samples, peers, LAB)


def _small(got: Options) -> list[Record]:
    exchanges = number("exchanges", got["exchanges"], 1)
    row = min(_ROW, exchanges)
    plan = Plan(
        SMALL,
        tuple(SHORT),
        (SENDRECV,),
        times=exchanges // row,
        warmup=1,
        repeats=row,
        cases=MODULE,
        mean=True,
    )
    samples = [Sample(**found) for found in run_worker(RANKS, [as_json([plan])], 2, _TIME_LIMIT)]
    return short_records(samples)


def short_records(samples: list[Sample]) -> list[Record]:
    """Of the small exchanges beside MPI's own, which is one of the samples."""
    found = {sample.name: sample for sample in samples}
    return [
        Record.of(
            f"{name}, in shared memory",
            sample.seconds,
            SENDRECV,
            found[SENDRECV].seconds,
            SHORT[name].local.get(SENDRECV),
            n=sample.n,
            ranks=sample.ranks,
            threads=sample.threads,
            bytes=sample.bytes,
        )
        for name, sample in found.items()
        if name in SHORT
    ]


_PLACES: Final[Mapping[str, Callable[[Options], list[Record]]]] = {
    "digits": _digits,
    "lab": _lab,
    "small": _small,
}
