"""Every codec by one table, and the buffers that it must take."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.compression import (
    BF16,
    FP16,
    QSGD,
    Chain,
    Codec,
    Identity,
    LowRank,
    OneBit,
    RandomK,
    SignSGD,
    Ternary,
    Threshold,
    TopK,
)

Floats = NDArray[np.float32]

SIZES: Final = (0, 1, 7, 8, 9, 31, 32, 33, 1000)


def thirds(n: int) -> tuple[int, ...]:
    """Segments of n elements, one of them empty."""
    return (n // 3, 0, n - n // 3)


def shapes(n: int) -> tuple[tuple[int, ...], ...]:
    """A square matrix, a vector and a matrix of one column, n elements in all."""
    side = isqrt(n // 2)
    rest = n - side * side
    return (side, side), (rest // 2,), (rest - rest // 2, 1)


CASES: Final[dict[str, Callable[[int], Codec]]] = {
    "identity": lambda _: Identity(),
    "fp16": lambda _: FP16(),
    "bf16": lambda _: BF16(),
    "topk-ratio": lambda _: TopK(0.1),
    "topk-none": lambda _: TopK(k=0),
    "topk-all": lambda n: TopK(k=n),
    "topk-segments": lambda n: TopK(0.01, segments=thirds(n)),
    "randomk": lambda _: RandomK(0.2),
    "randomk-unbiased": lambda _: RandomK(0.5, unbiased=True),
    "threshold": lambda _: Threshold(0.7),
    "threshold-0": lambda _: Threshold(0.0),
    "onebit": lambda _: OneBit(),
    "onebit-segments": lambda n: OneBit(segments=thirds(n)),
    "onebit-block": lambda _: OneBit(block=5),
    "signsgd": lambda _: SignSGD(0.25),
    "qsgd-2": lambda _: QSGD(2, 8),
    "qsgd-4": lambda _: QSGD(),
    "qsgd-7": lambda _: QSGD(7, 64),
    "qsgd-8": lambda _: QSGD(8),
    "ternary": lambda _: Ternary(0.1),
    "lowrank": lambda n: LowRank(2, shapes(n)),
    "chain-topk-qsgd": lambda _: Chain(TopK(0.2), QSGD(4, 32)),
    "chain-threshold-fp16": lambda _: Chain(Threshold(0.7), FP16()),
    "chain-segments-onebit": lambda n: Chain(TopK(0.2, segments=thirds(n)), OneBit(block=4)),
    "chain-topk-signsgd": lambda _: Chain(TopK(0.2), SignSGD(2.0)),
}

SELECTIONS: Final = (
    "topk-ratio", "topk-none", "topk-all", "topk-segments", "randomk", "threshold", "threshold-0"
)  # fmt: skip
"""Those that send chosen elements as they are: decoded + residual = input, exactly."""

EXACT_BYTES: Final = tuple(
    name for name in CASES if not name.startswith(("topk", "threshold", "ternary", "chain"))
)
"""Those whose bytes depend on n alone."""


def buffers(n: int) -> dict[str, Floats]:
    """Ordinary inputs, and those that break careless arithmetic."""
    rng = np.random.default_rng(n)
    tiny = np.full(n, 1e-45, np.float32) * rng.integers(-3, 4, n).astype(np.float32)
    signed_zeros = np.where(rng.random(n) < 0.5, np.float32(-0.0), np.float32(0.0)).astype(np.float32)
    return {
        "gaussian": rng.standard_normal(n).astype(np.float32),
        "heavy": rng.standard_t(1.5, n).astype(np.float32) * np.float32(1e6),
        "huge": rng.standard_normal(n).astype(np.float32) * np.float32(1e30),
        "subnormal": tiny,
        "zeros": signed_zeros,
        "equal": np.full(n, -1.5, np.float32),
        "one": np.where(np.arange(n) == n // 2, np.float32(3), np.float32(0)).astype(np.float32),
    }
