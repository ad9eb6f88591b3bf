"""What ``hpc-fl bench gossip`` times: exchanges with neighbours, a node on each rank, and their bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from hpc_fl.bench.collective_cases import HOROVOD, LIMIT, SENDRECV, Call, Case, Open

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_fl.collectives.mixer import Mixer, Placement
    from hpc_fl.comm.transport import Transport
    from hpc_fl.compression.base import Base
    from hpc_fl.telemetry.ledger import Ledger
    from hpc_fl.topology import Schedule

MODULE: Final = "hpc_fl.bench.gossip_cases"
"""This module, for :class:`hpc_fl.bench.collective_ranks.Plan`."""

_TWICE: Final = 2.0


def _schedule(graph: str, ranks: int) -> Schedule:
    from hpc_fl import topology

    return topology.Schedule(getattr(topology, graph)(ranks))


def _placement(ranks: int) -> Placement:
    return tuple((rank,) for rank in range(ranks))


def _codec(name: str, **options: Any) -> Base:
    """One of :mod:`hpc_fl.compression`."""
    from hpc_fl import compression

    codec: Base = getattr(compression, name)(**options)
    return codec


def _mixing(graph: str, make: Callable[[Transport, Ledger, Placement, int], Mixer]) -> Open:
    """The steps of a topology, a round a call. ``make``: what mixes rows of so many elements."""

    @contextmanager
    def opened(transport: Transport, ledger: Ledger, n: int) -> Iterator[Call]:
        schedule, round_ = _schedule(graph, transport.size), 0
        mixer = make(transport, ledger, _placement(transport.size), n)
        rows: dict[int, Tensor] = {}  # a run has its rows, and need not make a view of a buffer each time

        def mix(buffer: Tensor) -> None:
            nonlocal round_
            row = rows.get(buffer.data_ptr())
            if row is None:
                row = rows[buffer.data_ptr()] = buffer.view(1, -1)
            mixer.mix(row, schedule.matrix(round_), round_)
            round_ += 1

        yield mix
        mixer.close()

    return opened


def _dense(transport: Transport, ledger: Ledger, placement: Placement, _: int) -> Mixer:
    from hpc_fl.collectives import DenseMixer

    return DenseMixer(transport, ledger, placement)


def _direct(transport: Transport, ledger: Ledger, placement: Placement, _: int) -> Mixer:
    from hpc_fl.collectives import DirectMixer

    return DirectMixer(transport, ledger, placement, _codec("BF16"))


def _choco(name: str, **options: Any) -> Callable[[Transport, Ledger, Placement, int], Mixer]:
    def make(transport: Transport, ledger: Ledger, placement: Placement, n: int) -> Mixer:
        from hpc_fl.collectives import ChocoMixer
        from hpc_fl.collectives.steps import usual_gamma

        codec = _codec(name, **options)
        return ChocoMixer(transport, ledger, placement, codec, gamma=usual_gamma(codec, n))

    return make


def sent(graph: str, name: str, **options: Any) -> Callable[[int, int], float]:
    """By n and ranks, the bytes of the rank that sends most in a step, where the codec ``name`` encodes a
    row of n elements.
    """

    def formula(n: int, ranks: int) -> float:
        from hpc_fl.collectives import gossip_bytes

        matrix, placement = _schedule(graph, ranks).matrix(0), _placement(ranks)
        row = _codec(name, **options).nbytes(n)
        return max(gossip_bytes(matrix, placement, rank, row) for rank in range(ranks))

    return formula


@contextmanager
def _asynchronous(transport: Transport, ledger: Ledger, n: int) -> Iterator[Call]:
    """Of each two ranks the first asks, and the other one's thread answers: one exchange a call, of buffers
    that the ranks keep.
    """
    import torch

    from hpc_fl.collectives import PairwiseAverager

    peer = transport.rank ^ 1
    averager = PairwiseAverager(transport, ledger, torch.zeros(n), neighbours=(peer,))

    def average(_: Tensor) -> None:
        if transport.rank < peer:
            averager.average_with(peer)

    yield average
    averager.close()


LAB: Final[Mapping[str, Case]] = {
    "one-peer": Case(
        _mixing("one_peer_exponential", _dense),
        {LIMIT: 1 / 0.90, HOROVOD: 1 / 2.2},
        formula=sent("one_peer_exponential", "Identity"),
    ),
    "ring": Case(_mixing("ring", _dense), {LIMIT: 1 / 0.85}, formula=sent("ring", "Identity")),
    "exponential": Case(_mixing("exponential", _dense), formula=sent("exponential", "Identity")),
    "ring bf16": Case(_mixing("ring", _direct), formula=sent("ring", "BF16")),
    "choco topk 1%": Case(
        _mixing("ring", _choco("TopK", ratio=0.01)),
        {HOROVOD: 1 / 10},
        formula=sent("ring", "TopK", ratio=0.01),
        keeps=True,
    ),
    "choco sign": Case(
        _mixing("ring", _choco("OneBit")), {HOROVOD: 1 / 12}, formula=sent("ring", "OneBit"), keeps=True
    ),
}
"""On the virtual cluster."""

SHORT: Final[Mapping[str, Case]] = {
    "one-peer 4 KB": Case(_mixing("one_peer_exponential", _dense), local={SENDRECV: _TWICE}),
    "asynchronous 4 KB": Case(_asynchronous, alone=True),
}
"""In shared memory, of so short a buffer that a call costs what its overhead does. The bar is that of an
exchange which both ranks come to; one that the other rank's thread has to wake up for is told beside it.
"""

CASES: Final[Mapping[str, Case]] = {**LAB, **SHORT}
