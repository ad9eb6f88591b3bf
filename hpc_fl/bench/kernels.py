"""``hpc-fl bench kernels``: compression kernels beside a stream of the same size and beside what others do.

On the CPU the yardstick is ``torch.add(g, r, out=y)``, which moves 12 bytes an element; on a GPU the time in
which its copy bandwidth moves the operation's floor (docs/kernels.md). Kernels work in place, on the update's
memory. All runs of one table are interleaved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

import torch

from hpc_fl.bench.kernel_cases import (
    Operation,
    Update,
    gpu_operations,
    in_place,
    measured,
    measured_peer,
    operations,
    top_k,
)
from hpc_fl.bench.kernel_machines import Machine, machine_of
from hpc_fl.bench.record import Record

_CPU_N: Final = 25_000_000
_GPU_N: Final = (1 << 20, 1 << 24, 1 << 27)
_SMALL: Final = 1 << 10
_OVERHEAD_BAR: Final = 20.0
_ADVERSARIAL_BAR: Final = 3.0
_SCALING_BAR: Final = 1 / 1.7


def run(options: dict[str, str]) -> list[Record]:
    """Options: ``device=cpu`` (or cuda); ``n=25000000``; ``threads=1``; ``times=9`` runs of each, ``peers=0``
    to leave out what others do, which takes most of the time.
    """
    times, peers = int(options.get("times", "9")), options.get("peers", "1") != "0"
    threads = int(options.get("threads", "1"))
    machine = machine_of(options.get("device", "cpu"), threads)
    if machine.name == "cuda":
        sizes = [int(float(options["n"]))] if "n" in options else _GPU_N
        return [record for n in sizes for record in _on_gpu(machine, n, times, peers)]
    n = int(float(options.get("n", _CPU_N)))
    return [
        *_on_cpu(machine, n, times, peers),
        *_adversarial(machine, n, times),
        *_small(machine),
        *_scaling(machine, n, times),
    ]


def _on_cpu(machine: Machine, n: int, times: int, peers: bool) -> list[Record]:
    records = []
    for kind in ("gaussian", "heavy"):
        update = Update(machine, kind, n)
        found = operations(update)
        alone = in_place(update)
        beside = _beside_stream(update, [*found, alone], times)
        for operation, seconds in zip([*found, alone], beside.seconds, strict=True):
            record = Record.of(
                f"{operation.name}, {kind}", seconds, beside.name, beside.base, operation.stream_bar
            )
            records.append(_moving(record, operation, n, beside.reachable))
        records += _against_peers(update, found, kind, times) if peers else []
    return records


def _on_gpu(machine: Machine, n: int, times: int, peers: bool) -> list[Record]:
    records = []
    for kind in ("gaussian", "heavy", "equal"):
        update = Update(machine, kind, n)
        found = gpu_operations(update)
        beside = _beside_stream(update, found, times)
        machine.backend.check()
        data = f"{kind}, 2^{n.bit_length() - 1}"
        for operation, seconds in zip(found, beside.seconds, strict=True):
            floor = operation.floor * n / beside.reachable
            bar = None if operation.roofline_bar is None else 1 / operation.roofline_bar
            record = Record.of(f"{operation.name}, {data}", seconds, f"floor by {beside.name}", floor, bar)
            records.append(_moving(record, operation, n, beside.reachable))
        records += _against_peers(update, found, data, times) if peers else []
    return records


@dataclass(frozen=True)
class _Beside:
    """``seconds`` of each operation beside ``base``, those of the stream, which moves ``reachable`` bytes a
    second.
    """

    name: str
    base: float
    reachable: float
    seconds: list[float]


def _beside_stream(update: Update, found: Sequence[Operation], times: int) -> _Beside:
    name, stream, moved = update.machine.stream(update.g, update.e, update.out)
    base, *seconds = _medians(
        [lambda: update.machine.seconds(stream), *(measured(o, update) for o in found)], times
    )
    return _Beside(name, base, moved / base, seconds)


def _against_peers(update: Update, found: Sequence[Operation], data: str, times: int) -> list[Record]:
    records = []
    for operation in found:
        if operation.peer is None or operation.speedup is None:
            continue
        ours, peer = _medians(
            [measured(operation, update), measured_peer(operation, update)], max(3, times // 3)
        )
        record = Record.of(
            f"{operation.name}, {data}", ours, operation.peer_name, peer, 1 / operation.speedup
        )
        records.append(replace(record, n=update.n, threads=torch.get_num_threads()))
    return records


def _adversarial(machine: Machine, n: int, times: int) -> list[Record]:
    """Ties and crowds mislead a sample of the data; beside the same on Gaussian data."""
    records = []
    for speculative, share in ((False, 0.01), (True, 0.001)):
        plain = Update(machine, "gaussian", n)
        usual = measured(top_k(plain, share, speculative=speculative), plain)
        for kind in ("equal", "crowded"):
            update = Update(machine, kind, n)
            operation = top_k(update, share, speculative=speculative)
            ours, base = _medians([measured(operation, update), usual], times)
            record = Record.of(f"{operation.name}, {kind}", ours, "gaussian", base, _ADVERSARIAL_BAR)
            records.append(replace(record, n=n, threads=torch.get_num_threads()))
    return records


def _small(machine: Machine) -> list[Record]:
    """A whole call on so few elements that only its overhead counts."""
    update = Update(machine, "gaussian", _SMALL)
    records = []
    for operation in operations(update):
        (seconds,) = _medians([measured(operation, update)], 2000)
        record = Record.at_most(
            f"{operation.name}, 2^10",
            seconds * 1e6,
            _OVERHEAD_BAR,
            "us",
            n=_SMALL,
            threads=torch.get_num_threads(),
        )
        records.append(record)
    return records


def _scaling(machine: Machine, n: int, times: int) -> list[Record]:
    """Two threads beside one, of all kernels in turn and of an addition alone: two cores of a virtual machine
    share a memory, and now and then a core. Nothing on a single core.
    """
    if len(os.sched_getaffinity(0)) < 2:
        return []
    update = Update(machine, "gaussian", n)
    threads, found = torch.get_num_threads(), [*operations(update), in_place(update)]
    seconds = _medians([_on_threads(measured(o, update), count) for o in found for count in (2, 1)], times)
    torch.set_num_threads(threads)
    records = []
    for operation, two, one in zip(found, seconds[::2], seconds[1::2], strict=True):
        bar = None if operation.stream_bar is None else _SCALING_BAR
        record = Record.of(f"{operation.name}, scaling", two, "one thread", one, bar)
        records.append(replace(record, n=n, threads=2))
    return records


def _on_threads(once: Callable[[], float], threads: int) -> Callable[[], float]:
    def run_there() -> float:
        torch.set_num_threads(threads)
        return once()

    return run_there


def _moving(record: Record, operation: Operation, n: int, reachable: float) -> Record:
    """With the bytes of the operation's floor and their share of the ``reachable`` bytes a second."""
    moved = round(operation.floor * n)
    bandwidth = moved / record.seconds
    return replace(
        record,
        n=n,
        threads=torch.get_num_threads(),
        bytes=moved,
        bandwidth=bandwidth,
        share=bandwidth / reachable,
    )


def _medians(once: Sequence[Callable[[], float]], times: int) -> list[float]:
    """Median seconds of each, measured in turn after one unmeasured run of all."""
    for work in once:
        work()
    rounds = [[work() for work in once] for _ in range(times)]
    return [median(column) for column in zip(*rounds, strict=True)]
