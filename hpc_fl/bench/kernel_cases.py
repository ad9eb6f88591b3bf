"""The operations of ``hpc-fl bench kernels``: each with its floor in bytes, its bars and what others do.

All but the unpacking include error feedback: they add what was kept back, and leave what is to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_fl.bench.kernel_machines import Machine, Work

Floats = NDArray[np.float32]

BLOCK: Final = 512
_KEY: Final = 0x5DEECE66D


def gaussian(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(n, dtype=np.float32)


def heavy(n: int, seed: int) -> Floats:
    """Student's t with two degrees of freedom: its variance is infinite."""
    random = np.random.default_rng(seed)
    chi = random.standard_exponential(n, dtype=np.float32)
    x: Floats = random.standard_normal(n, dtype=np.float32)
    x /= np.sqrt(np.maximum(chi, np.float32(1e-12)))
    return x


def equal(n: int, _seed: int) -> Floats:
    """All of one magnitude: every element is a tie."""
    return np.full(n, 0.75, np.float32)


def crowded(n: int, _seed: int) -> Floats:
    """Almost all within one part in 2^20 of each other, and the largest all at the end."""
    x: Floats = (1 + np.arange(n, dtype=np.float64) / n * 2.0**-20).astype(np.float32)
    return x


DATA: Final[dict[str, Callable[[int, int], Floats]]] = {
    "gaussian": gaussian,
    "heavy": heavy,
    "equal": equal,
    "crowded": crowded,
}


class Update:
    """An update and what was kept back, restored before each measurement, as kernels work in place."""

    def __init__(self, machine: Machine, kind: str, n: int) -> None:
        self.machine, self.n = machine, n
        make = DATA[kind]
        self._pristine = machine.array(make(n, 1))
        self.g = machine.array(np.zeros(n, np.float32))
        self.e = machine.array(make(n, 2) * np.float32(0.5))
        self.out = machine.array(np.zeros(n, np.float32))
        self.another = machine.array(make(n, 3))

    def restore(self) -> None:
        self.g[:] = self._pristine


@dataclass(frozen=True)
class Operation:
    """``floor``: bytes an element that no implementation can avoid; ``stream_bar``: allowed ratio to the
    yardstick on a CPU; ``roofline_bar``: wanted share of a GPU's bandwidth; ``speedup``: wanted over
    ``peer``.
    """

    name: str
    floor: float
    ours: Work
    peer: Work | None = None
    peer_name: str = ""
    stream_bar: float | None = None
    roofline_bar: float | None = None
    speedup: float | None = None


def top_k(update: Update, share: float, *, speculative: bool) -> Operation:
    """Error feedback + exact top-k, compacted; speculative: with the threshold of a call on other data."""
    m, k = update.machine, max(1, round(update.n * share))
    indices, values = m.array(np.zeros(k, np.int32)), m.array(np.zeros(k, np.float32))
    backend, hint = m.backend, 0.0
    if speculative:
        hint = backend.add_topk(update.another, update.e, update.another, indices, values)
    y = m.tensor(update.out)
    g, e = m.tensor(update.g), m.tensor(update.e)

    def peer() -> object:
        torch.add(g, e, out=y)
        chosen = torch.topk(y.abs(), k, sorted=False).indices
        taken = y[chosen]
        y[chosen] = 0
        return taken

    return Operation(
        f"top-k {share * 100:g}%{' hinted' if speculative else ''}",
        (12 if speculative else 16) + 8 * share,
        lambda: backend.add_topk(update.g, update.e, update.g, indices, values, hint),
        peer,
        "torch topk path",
        stream_bar=1.1 if speculative else 1.6,
        roofline_bar=None if speculative else 0.70,
        speedup=5.0 if m.name == "cuda" else 18.0 if speculative else 12.0,
    )


def sign(update: Update) -> Operation:
    """Error feedback + sign + scale + pack, with the residual formed from the last call's scale."""
    m, n = update.machine, update.n
    bounds = m.array(np.array([0, n], np.int64))
    scales = m.array(np.full(1, 0.4, np.float32))
    bits, new = m.array(np.zeros(-(-n // 8), np.uint8)), m.array(np.zeros(1, np.float32))
    g, e, y = m.tensor(update.g), m.tensor(update.e), m.tensor(update.out)

    def peer() -> object:
        torch.add(g, e, out=y)
        scale = y.abs().mean()
        packed = m.pack_signs(y)
        torch.sub(y, torch.copysign(scale, y), out=y)
        return packed

    return Operation(
        "1-bit",
        12.125,
        lambda: m.backend.add_sign(update.g, update.e, scales, update.g, bounds, bits, new),
        peer,
        "torch + packbits path",
        stream_bar=0.65,
        roofline_bar=0.85,
        speedup=5.0 if m.name == "cuda" else 15.0,
    )


def unpack(update: Update) -> Operation:
    """Unpack + scale + accumulate."""
    m, n = update.machine, update.n
    bounds, scales = m.array(np.array([0, n], np.int64)), m.array(np.full(1, 0.4, np.float32))
    bits = m.array(np.random.default_rng(0).integers(0, 256, -(-n // 8), dtype=np.uint8))
    return Operation(
        "1-bit unpack + add",
        8.125,
        lambda: m.backend.add_signs(bits, bounds, scales, 0.25, update.out),
        stream_bar=0.8,
    )


def quantize(update: Update) -> Operation:
    """4-bit stochastic quantisation with error feedback."""
    m, n = update.machine, update.n
    codes, scales = m.array(np.zeros(-(-n // 8) * 4, np.uint8)), m.array(np.zeros(-(-n // BLOCK), np.float32))
    return Operation(
        "4-bit",
        12.5 + 4 / BLOCK,
        lambda: m.backend.add_quantize(update.g, update.e, update.g, 4, BLOCK, _KEY, codes, scales),
        stream_bar=1.2,
    )


def operations(update: Update) -> list[Operation]:
    """All that have a bar on a CPU."""
    return [
        top_k(update, 0.01, speculative=False),
        top_k(update, 0.001, speculative=True),
        sign(update),
        unpack(update),
        quantize(update),
    ]


def in_place(update: Update) -> Operation:
    """What the memory of a CPU allows, without a bar: update and residual read once, the sum written once."""
    g, e = update.machine.tensor(update.g), update.machine.tensor(update.e)
    return Operation("torch.add in place", 12, lambda: torch.add(g, e, out=g))


def gpu_operations(update: Update) -> list[Operation]:
    """All that have a bar on a GPU."""
    shares = (0.001, 0.01, 0.1)
    return [*(top_k(update, share, speculative=False) for share in shares), sign(update), *_others(update)]


def _others(update: Update) -> list[Operation]:
    return [top_k(update, 0.001, speculative=True), unpack(update), quantize(update)]


def measured(operation: Operation, update: Update) -> Callable[[], float]:
    """Seconds of one run, on a restored update."""
    return _timed(operation.ours, update)


def measured_peer(operation: Operation, update: Update) -> Callable[[], float]:
    """The same of what others do."""
    assert operation.peer is not None
    return _timed(operation.peer, update)


def _timed(work: Work, update: Update) -> Callable[[], float]:
    def once() -> float:
        update.restore()
        return update.machine.seconds(work)

    return once
