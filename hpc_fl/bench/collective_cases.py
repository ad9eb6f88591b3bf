"""What ``hpc-fl bench collectives`` measures: schemes, the shapes of a transformer, and the bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from hpc_fl.comm.transport import Transport
    from hpc_fl.telemetry.ledger import Ledger

HOROVOD: Final = "Horovod"
GLOO: Final = "gloo"
MPI: Final = "MPI.Allreduce"
PEERS: Final = (HOROVOD, GLOO, MPI)
"""Allreduces."""
SENDRECV: Final = "MPI.Sendrecv"
DENSE: Final = ("dense", "ring", "dense mean")
"""Schemes that send float32 as it is."""
LIMIT: Final = "link limit"
"""The seconds in which a link moves what the scheme sends: a yardstick that nobody can beat."""


Call: TypeAlias = "Callable[[Tensor], object]"
"""What is timed: something done to a buffer, in place."""
Open: TypeAlias = "Callable[[Transport, Ledger, int], AbstractContextManager[Call]]"
"""``open(transport, ledger, n)``: a call for buffers of n elements. Every rank must enter and leave it."""


class Reducer(Protocol):
    """A reduction in place. Some have a ``close()``, too."""

    def allreduce(self, buffer: Tensor) -> object: ...


def reducing(make: Callable[[Transport, Ledger, int], Reducer]) -> Open:
    """The reduction that ``make`` gives."""

    @contextmanager
    def opened(transport: Transport, ledger: Ledger, n: int) -> Iterator[Call]:
        reducer = make(transport, ledger, n)
        yield reducer.allreduce
        getattr(reducer, "close", lambda: None)()

    return opened


@dataclass(frozen=True)
class Case:
    """A scheme: how it is opened, for buffers of n elements.

    ``lab``, ``local``: by yardstick, the largest ratio of its time to the yardstick's that is good enough on
    the virtual cluster, and in shared memory. ``break_even``: the speed of network in Gbit/s up to which it
    is to pay. ``formula(n, P)``: payload bytes that a rank sends, where the scheme promises a number.
    ``keeps``: something back for the next call, so that the first ones are not like the others. ``alone``:
    has a thread that would disturb the others.
    """

    open: Open
    lab: Mapping[str, float] = field(default_factory=dict)
    local: Mapping[str, float] = field(default_factory=dict)
    break_even: float | None = None
    formula: Callable[[int, int], float] | None = None
    keeps: bool = False
    alone: bool = False


def transformer_shapes(n: int) -> tuple[tuple[int, ...], ...]:
    """The tensors of a decoder-only transformer with exactly ``n`` parameters, as in models/transformer.py.

    As many blocks as fit in nine tenths of n; the tied embedding takes what they leave, and what is no whole
    row of it is a vector at the end.
    """
    width = 512 if n >= 10_000_000 else 64
    vectors = ((width,),) * 2
    block = (
        *vectors,
        *((3 * width, width), (3 * width,), (width, width), (width,)),
        *vectors,
        *((4 * width, width), (4 * width,), (width, 4 * width), (width,)),
    )
    depth = int(0.9 * n) // sum(map(prod, block))
    rows, rest = divmod(n - depth * sum(map(prod, block)), width)
    return tuple(shape for shape in ((rows, width), *(block * depth), (rest,)) if prod(shape))


def _auto(transport: Transport, ledger: Ledger, _: int) -> Reducer:
    from hpc_fl.collectives.auto import AutoDense

    return AutoDense(transport, ledger)


def _ring(transport: Transport, ledger: Ledger, _: int) -> Reducer:
    from hpc_fl.collectives.ring import Ring

    return Ring(transport, ledger)


def _reduction(name: str, *, scheme: str = "", **options: Any) -> Open:
    """The usual reduction of the codec of that class, with error feedback where the codec needs it.

    ``scheme``: of the sparse ones.
    """

    def make(transport: Transport, ledger: Ledger, n: int) -> Reducer:
        from hpc_fl import compression
        from hpc_fl.collectives.front_door import reduction

        shapes = {"shapes": transformer_shapes(n)} if name == "LowRank" else {}
        codec = getattr(compression, name)(**options, **shapes)
        more: dict[str, Any] = {"scheme": scheme} if scheme else {}
        return reduction(transport, codec, ledger=ledger, **more)

    return reducing(make)


def _ring_bytes(itemsize: int) -> Callable[[int, int], float]:
    return lambda n, ranks: 2 * (ranks - 1) / ranks * itemsize * n


CASES: Final[Mapping[str, Case]] = {
    "dense": Case(reducing(_auto), {LIMIT: 1 / 0.92, HOROVOD: 1 / 1.5}, formula=_ring_bytes(4)),
    "ring": Case(reducing(_ring), formula=_ring_bytes(4)),
    "dense mean": Case(_reduction("Identity"), formula=_ring_bytes(4)),
    "bf16": Case(_reduction("BF16"), formula=_ring_bytes(2)),
    "qsgd 4 bit": Case(_reduction("QSGD", width=4)),
    "onebit": Case(
        _reduction("OneBit"),
        {HOROVOD: 1 / 12, GLOO: 1 / 8},
        {HOROVOD: 1.3},
        15.0,
        lambda n, ranks: 2 * (ranks - 1) * (-(-n // (8 * ranks)) + 4),
        keeps=True,
    ),
    "vote": Case(_reduction("SignSGD")),
    "topk 1%": Case(_reduction("TopK", ratio=0.01), {HOROVOD: 1 / 10}, break_even=15.0, keeps=True),
    "topk 0.1%": Case(_reduction("TopK", ratio=0.001), {HOROVOD: 1 / 18}, keeps=True),
    "regions 1%": Case(
        _reduction("TopK", scheme="regions", ratio=0.01),
        formula=lambda n, ranks: 24 * (ranks - 1) / ranks * n * 0.01,
        keeps=True,
    ),
    "ternary 1%": Case(_reduction("Ternary", ratio=0.01), keeps=True),
    "randomk 1%": Case(_reduction("RandomK", ratio=0.01), keeps=True),
    "lowrank 4": Case(_reduction("LowRank", rank=4), {HOROVOD: 1 / 10}, keeps=True),
}
"""By name. ``dense`` and ``ring`` add up and nothing else, as the peers do. ``dense mean``, and all others,
are weighted means with a look for NaN, and agree about the call before anything moves.
"""


def break_even(dense_bytes: float, scheme_bytes: float, added_seconds: float) -> float:
    """The speed of network in bit/s below which a scheme is faster than a dense allreduce.

    It sends ``scheme_bytes`` in place of ``dense_bytes``, and computes ``added_seconds`` longer: at a rate B
    both take equally long where added = 8 (dense - scheme) / B. Infinite where it adds no time, 0 where it
    saves no bytes.
    """
    saved = dense_bytes - scheme_bytes
    if saved <= 0:
        return 0.0
    return 8 * saved / added_seconds if added_seconds > 0 else float("inf")
