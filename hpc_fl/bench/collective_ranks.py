"""The program on the ranks of ``hpc-fl bench collectives``: schemes and peers in turn, in one job.

    python -m hpc_fl.bench.collective_ranks '[{"n": 1000000, "schemes": ["dense", "onebit"], ...}, ...]'

Rank 0 prints a JSON object for each (:class:`Sample`), plan by plan.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from hpc_fl.bench.collective_cases import HOROVOD, Call, Case
from hpc_fl.bench.collective_peers import OPEN, installed
from hpc_fl.bench.netns import INTERFACE
from hpc_fl.telemetry.ledger import Ledger

if TYPE_CHECKING:
    from hpc_fl.comm.transport import Transport

RANKS: Final = "hpc_fl.bench.collective_ranks"
"""This module, as ``python -m`` wants it."""

_SEED: Final = 0x636F6C6C
_CALLS_OF_A_RUN: Final = 3


@dataclass(frozen=True)
class Plan:
    """What to measure: ``times`` timed calls of each, after ``warmup`` others (residuals grow in them).

    A time is that of ``repeats`` calls in a row over their number. ``wire``: whether to read the interface's
    counters, which exist in the lab. ``endure``: of each of these schemes, how many runs with objects of
    their own have to come to an end. ``cases``: the module whose ``CASES`` the schemes are of. ``mean``:
    whether the mean of the times is meant, in place of the median.
    """

    n: int
    schemes: Sequence[str]
    peers: Sequence[str] = ()
    times: int = 5
    warmup: int = 8
    repeats: int = 1
    wire: bool = False
    endure: Mapping[str, int] = field(default_factory=dict)
    cases: str = "hpc_fl.bench.collective_cases"
    mean: bool = False

    def case(self, name: str) -> Case:
        """The scheme of that name."""
        case: Case = import_module(self.cases).CASES[name]
        return case


@dataclass(frozen=True)
class Sample:
    """What was found: ``seconds`` of a call, the median (or mean) of what the slowest rank took; ``bytes`` in
    a call by the ledger, of the rank that sent most; ``wire``: by that rank's interface (None: not read);
    ``off``: the largest difference of the two on any rank, over the ledger's. ``ended``: of runs that had to
    come to an end, how many did.
    """

    name: str
    n: int
    ranks: int
    threads: int
    seconds: float
    bytes: int = 0
    wire: int | None = None
    off: float | None = None
    ended: int | None = None


@dataclass
class _Subject:
    """A scheme or a peer, and what was measured of it on this rank."""

    name: str
    call: Call
    ledger: Ledger | None = None
    keeps: bool = False
    seconds: list[float] = field(default_factory=list)
    sent: int = 0
    wire: int = 0


class _Stage:
    """The buffer that everything works on, and fresh data for it before each call."""

    def __init__(self, transport: Transport, plan: Plan) -> None:
        self._transport, self._plan = transport, plan
        self._source = torch.randn(plan.n, generator=torch.Generator().manual_seed(_SEED + transport.rank))
        self._buffer = torch.empty(plan.n)
        self._turn = 0

    def call(self, subject: _Subject, *, counts: bool = True) -> None:
        """One timed call, or several in a row; every rank must."""
        self._refill()
        wire, sent = self._wire(), subject.ledger.total if subject.ledger else 0
        self._transport.barrier()
        start = time.perf_counter()
        for _ in range(self._plan.repeats):
            subject.call(self._buffer)
        slowest = np.array([time.perf_counter() - start]) / self._plan.repeats
        self._transport.allreduce(slowest, "max")
        if counts:
            subject.seconds.append(float(slowest[0]))
            # All ranks have what they were sent: nothing of this call is still to be counted.
            subject.wire += self._wire() - wire
            subject.sent += (subject.ledger.total if subject.ledger else 0) - sent

    def _refill(self) -> None:
        """The source turned by another number of elements: other large elements at other places, for the
        price of a copy.
        """
        if self._plan.repeats > 1:
            self._buffer.zero_()  # sums of sums would leave the range of float32
            return
        self._turn += 1
        cut = self._turn * 7_368_787 % self._plan.n
        self._buffer[: self._plan.n - cut] = self._source[cut:]
        self._buffer[self._plan.n - cut :] = self._source[:cut]

    def _wire(self) -> int:
        return wire_bytes() if self._plan.wire else 0


def wire_bytes(interface: str = INTERFACE) -> int:
    """Bytes that this host's interface has sent, Ethernet headers included."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    counts = next(
        line.partition(":")[2].split() for line in lines if line.strip().startswith(f"{interface}:")
    )
    return int(counts[8])


def measure(transport: Transport, plan: Plan, threads: int) -> list[Sample]:
    """All of a plan, the same samples on all ranks; every rank must call it."""
    with ExitStack() as opened:
        stage = _Stage(transport, plan)
        # A thread of its own would disturb the others: what has one is opened for its own calls only.
        alone = [name for name in plan.schemes if plan.case(name).alone]
        subjects = [_scheme(plan, name, transport, opened) for name in plan.schemes if name not in alone]
        subjects += [
            _Subject(peer, opened.enter_context(OPEN[peer](transport)))
            for peer in plan.peers
            if peer != HOROVOD
        ]
        shut = {name: _Subject(name, _not_open, Ledger()) for name in alone}
        if HOROVOD in plan.peers and installed(HOROVOD):
            shut[HOROVOD] = _Subject(HOROVOD, _not_open)
        _take_turns(stage, transport, plan, subjects, shut)
    samples = [_sample(transport, plan, threads, subject) for subject in (*subjects, *shut.values())]
    return samples + [_endure(transport, plan, name, runs) for name, runs in plan.endure.items()]


def _take_turns(
    stage: _Stage,
    transport: Transport,
    plan: Plan,
    subjects: list[_Subject],
    shut: Mapping[str, _Subject],
) -> None:
    for turn in range(plan.warmup):
        for subject in subjects:
            # Only what keeps something back needs more than one call to be as it will be.
            if turn == 0 or subject.keeps:
                stage.call(subject, counts=False)
    for turn in range(plan.times):
        # What ends threads was seen to hold up the calls after it, once in some runs for 40 ms.
        for subject in subjects[:1] if shut and turn else ():
            stage.call(subject, counts=False)
        for subject in subjects:
            stage.call(subject)
        for name, subject in shut.items():
            ledger = subject.ledger
            case = (
                OPEN[name](transport) if ledger is None else plan.case(name).open(transport, ledger, plan.n)
            )
            with case as subject.call:
                stage.call(subject, counts=False)
                stage.call(subject)


def _not_open(_: torch.Tensor) -> None:
    raise AssertionError("opened for each call")


def _scheme(plan: Plan, name: str, transport: Transport, opened: ExitStack) -> _Subject:
    ledger, case = Ledger(), plan.case(name)
    return _Subject(name, opened.enter_context(case.open(transport, ledger, plan.n)), ledger, case.keeps)


def _endure(transport: Transport, plan: Plan, name: str, runs: int) -> Sample:
    """So many runs of one scheme, each with objects of its own; the seconds of one."""
    start = time.perf_counter()
    for _ in range(runs):
        with ExitStack() as opened:
            subject = _scheme(plan, name, transport, opened)
            for _ in range(_CALLS_OF_A_RUN):
                subject.call(torch.ones(plan.n))
    seconds = (time.perf_counter() - start) / runs
    threads = torch.get_num_threads()
    return Sample(f"{name}, {runs} runs", plan.n, transport.size, threads, seconds, ended=runs)


def _sample(transport: Transport, plan: Plan, threads: int, subject: _Subject) -> Sample:
    calls = plan.times * plan.repeats
    everyone = np.zeros((transport.size, 2), np.int64)
    transport.allgather(np.array([subject.sent, subject.wire]), everyone)
    sent, wire = (everyone / calls).T
    most = int(sent.argmax())
    off = float(np.abs(wire / sent - 1).max()) if plan.wire and sent.all() else None
    seconds = np.mean(subject.seconds) if plan.mean else np.median(subject.seconds)
    return Sample(
        subject.name, plan.n, transport.size, threads, float(seconds),
        round(sent[most]), round(wire[most]) if plan.wire else None, off,
    )  # fmt: skip


def as_json(plans: Sequence[Plan]) -> str:
    """The plans as this program's argument."""
    return json.dumps([asdict(plan) for plan in plans])


def main(plans: Sequence[Plan]) -> None:
    """Measures all plans on this rank and, on rank 0, prints the samples."""
    from hpc_fl.comm import runtime

    transport = runtime.start()
    with runtime.guard(transport):
        threads = runtime.set_threads(transport, None)
        for plan in plans:
            for sample in measure(transport, plan, threads):
                if transport.rank == 0:
                    print(json.dumps(asdict(sample)), flush=True)


if __name__ == "__main__":
    main([Plan(**given) for given in json.loads(sys.argv[1])])
