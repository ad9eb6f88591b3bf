"""What a reduction will cost, and which codec is worth using: pure functions of what was measured of a world.

    seconds = messages * latency + bytes / bandwidth + elements * kernels

Nothing overlaps in it, and no message waits for another: in truth encoding and sending overlap in part, so
that what takes little of either is a little better than it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Final

from hpc_fl.collectives.dense import dense_bytes
from hpc_fl.collectives.link import Link
from hpc_fl.collectives.lowrank import lowrank_bytes
from hpc_fl.collectives.shards import sharded_bytes
from hpc_fl.collectives.sparse_doubling import sparse_doubling_bytes
from hpc_fl.collectives.sparse_gather import gather_bytes
from hpc_fl.collectives.sparse_split import split_bytes
from hpc_fl.compression import LowRank, OneBit

RATIO: Final = 0.01
RANK: Final = 4
WORTH: Final = 0.8
"""What changes the optimisation more must take at most this share of the time of what does less."""

Shapes = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Kernel:
    """Seconds an element of the buffer: to encode it, error feedback included; to add a decoded payload."""

    encode: float
    decode: float


@dataclass(frozen=True)
class World:
    """``ranks`` ranks, each with a ``link``, and by codec the ``kernels``' speed while all ranks compute."""

    ranks: int
    link: Link
    kernels: Mapping[str, Kernel]


@dataclass(frozen=True)
class Work:
    """What one rank does in a reduction; ``computing`` in seconds."""

    messages: float
    nbytes: float
    computing: float


@dataclass(frozen=True)
class Candidate:
    """A codec as the configuration names it, with its ``options``, and the ``collective`` that carries it.

    ``work(world, n, shapes)``; None where it cannot carry such a buffer.
    """

    codec: str
    collective: str
    work: Callable[[World, int, Shapes], Work | None]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Forecast:
    """A candidate's ``seconds``, and the ``break_even`` in bytes a second: on networks slower than that it is
    faster than the dense allreduce (where both do the same work there).
    """

    candidate: Candidate
    work: Work
    seconds: float
    break_even: float


@dataclass(frozen=True)
class CodecChoice:
    """What to use, the forecasts of all candidates (the dense one first), and the reason in one sentence."""

    codec: str
    collective: str
    options: Mapping[str, Any]
    forecasts: tuple[Forecast, ...]
    why: str


def forecasts(world: World, n: int, shapes: Shapes = ()) -> tuple[Forecast, ...]:
    """Of all candidates that can carry ``n`` elements; ``shapes`` are those of the model's tensors."""
    works = [(one, one.work(world, n, shapes)) for one in CANDIDATES]
    dense = _dense(world, n, shapes)
    return tuple(
        Forecast(one, work, _seconds(world, work), _break_even(world, dense, work))
        for one, work in works
        if work is not None
    )


def choose_codec(world: World, n: int, shapes: Shapes = ()) -> CodecChoice:
    """The codec for buffers of ``n`` elements: the first candidate, unless a later one saves a fifth.

    Ranks that give the same world get the same choice.
    """
    found = forecasts(world, n, shapes)
    dense, *lossy = found
    best = dense
    for forecast in lossy:
        if forecast.seconds < WORTH * best.seconds:
            best = forecast
    chosen = best.candidate
    why = _why(world, dense, best, lossy)
    return CodecChoice(chosen.codec, chosen.collective, dict(chosen.options), found, why)


def _why(world: World, dense: Forecast, best: Forecast, lossy: Sequence[Forecast]) -> str:
    speed = f"{_gbit(world.link.bandwidth)} Gbit/s"
    if world.ranks == 1:
        return "dense: one rank has nobody to send to"
    if best is not dense:
        return (
            f"{best.candidate.codec}: {dense.seconds / best.seconds:.1f} times faster than dense: it sends "
            f"{best.work.nbytes / dense.work.nbytes:.2%} of the bytes, which pays on networks below "
            f"{_gbit(best.break_even)} Gbit/s, and this one moves {speed}"
        )
    highest = max(lossy, key=lambda forecast: forecast.break_even)
    if world.link.bandwidth >= highest.break_even:
        return f"dense: the network moves {speed}, above the break-even of every codec"
    return (
        f"dense: at {speed} and this size no codec saves {1 - WORTH:.0%} of its {dense.seconds * 1e3:.3g} ms"
    )


def _gbit(bandwidth: float) -> str:
    return "any" if math.isinf(bandwidth) else f"{8 * bandwidth / 1e9:.3g}"


def _seconds(world: World, work: Work) -> float:
    return world.link.seconds(work.messages, work.nbytes) + work.computing


def _break_even(world: World, dense: Work, work: Work) -> float:
    saved = dense.nbytes - work.nbytes
    added = (work.messages - dense.messages) * world.link.latency + work.computing - dense.computing
    if saved <= 0:
        return 0.0
    return saved / added if added > 0 else math.inf


def _share(world: World) -> float:
    """The share of a buffer that others own."""
    return (world.ranks - 1) / world.ranks


def _agreeing(world: World) -> float:
    """Messages of the small allgathers with which a call begins, and finds NaN."""
    return 2 * math.ceil(math.log2(world.ranks))


def _dense(world: World, n: int, _: Shapes) -> Work:
    """The ring, or recursive doubling where that is faster."""
    steps, adding = math.ceil(math.log2(world.ranks)), world.kernels["identity"].decode * n
    ways = (
        Work(2 * (world.ranks - 1), dense_bytes(n, world.ranks), adding * _share(world)),
        Work(steps, 4 * n * steps, adding * steps),
    )
    best = min(ways, key=lambda way: _seconds(world, way))
    return replace(best, messages=best.messages + _agreeing(world))


def _halves(world: World, n: int, _: Shapes) -> Work:
    kernel, share = world.kernels["bf16"], _share(world)
    rounding = 2 * (kernel.encode + kernel.decode) * n * share
    return Work(2 * (world.ranks - 1) + _agreeing(world), dense_bytes(n, world.ranks, 2), rounding)


def _onebit(world: World, n: int, _: Shapes) -> Work:
    kernel, share = world.kernels["onebit"], _share(world)
    sent = sharded_bytes(OneBit(), n, world.ranks, 0)
    # A rank encodes all but its own shard, and the sum of that; adds up the others', and decodes all.
    return Work(
        2 * (world.ranks - 1) + _agreeing(world), sent, kernel.encode * n + kernel.decode * n * (1 + share)
    )


def _topk(world: World, n: int, _: Shapes) -> Work:
    ranks, kernel = world.ranks, world.kernels["topk"]
    k = math.ceil(RATIO * n)
    union = min(n, k * ranks)  # of elements at random places
    ways = (
        (ranks - 1, gather_bytes(k, ranks)),
        (math.ceil(math.log2(ranks)), sparse_doubling_bytes(k, union, n, ranks)),
        (2 * (ranks - 1), split_bytes(k, union, n, ranks)),
    )
    messages, sent = min(ways, key=lambda way: world.link.seconds(*way))
    return Work(messages + _agreeing(world), sent, (kernel.encode + (ranks - 1) * kernel.decode) * n)


def _lowrank(world: World, n: int, shapes: Shapes) -> Work | None:
    if not shapes or sum(map(prod, shapes)) != n:
        return None
    kernel, codec = world.kernels["lowrank"], LowRank(RANK, tuple(shapes))
    sent = lowrank_bytes(codec, n, world.ranks)
    return Work(4 * (world.ranks - 1) + _agreeing(world), sent, (kernel.encode + kernel.decode) * n)


CANDIDATES: Final = (
    Candidate("identity", "dense", _dense),
    Candidate("bf16", "halves", _halves),
    Candidate("onebit", "sharded", _onebit),
    Candidate("topk", "sparse", _topk, {"ratio": RATIO}),
    Candidate("lowrank", "lowrank", _lowrank, {"rank": RANK}),
)
"""What needs no tuning by the user. The first loses nothing; the others change the optimisation, each more
than those before it.
"""
