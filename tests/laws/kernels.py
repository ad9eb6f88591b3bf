"""What the kernels of every backend must do: as the reference does, on the cases listed here.

Each law of ``LAWS`` takes a :class:`Subject` and a size, and goes through data that tend to find mistakes;
``HOSTILE`` holds what a peer may send, and needs no size. :mod:`laws.kernel_checks` compares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pytest
from laws.kernel_checks import (
    GREATEST,
    REFERENCE,
    Floats,
    Host,
    Subject,
    check_add_sign,
    check_add_signs,
    check_add_threshold,
    check_add_topk,
    check_decode_gaps,
    check_decode_mask,
    check_gaps,
    check_majority,
    check_mask,
    check_merge_add,
    check_quantize,
    check_scatter_add,
    check_sign_residual,
    same_bits,
)
from numpy.typing import NDArray

from hpc_fl.errors import NotFiniteError, WireError

SIZES: Final = (0, 1, 7, 8, 9, 31, 32, 33, 255, 256, 257, 1000, 5003)


def data_of(kind: str, n: int, seed: int = 0) -> Floats:
    """(n,) float32 of one of ``KINDS``."""
    return KINDS[kind](n, np.random.default_rng(seed)).astype(np.float32)


def _scattered(n: int, random: np.random.Generator) -> Host:
    """Any finite bits at all: all exponents alike, subnormals among them; no sum of two overflows."""
    bits = random.integers(0, 2**32, n, dtype=np.uint32)
    bits[(bits & 0x7F000000) == 0x7F000000] &= np.uint32(0xBFFFFFFF)
    return bits.view(np.float32)


KINDS: Final[dict[str, Callable[[int, np.random.Generator], Host]]] = {
    "gaussian": lambda n, random: random.standard_normal(n),
    "heavy": lambda n, random: random.standard_t(2, n),
    "zeros": lambda n, _: np.zeros(n),
    "signed_zeros": lambda n, random: np.where(random.integers(0, 2, n), 0.0, -0.0),
    "equal": lambda n, _: np.full(n, -1.5),
    "ties": lambda n, random: random.integers(-2, 3, n) * 0.25,
    "subnormal": lambda n, random: random.integers(-9, 10, n).astype(np.float32) * np.float32(1e-45),
    "huge": lambda n, random: random.uniform(-0.49, 0.49, n) * float(GREATEST),
    "scattered": _scattered,
    "ascending": lambda n, _: 1 + np.arange(n) / 2**13,
    "few": lambda n, random: np.where(random.random(n) < 0.02, random.standard_normal(n), 0),
}

SPOILS: Final = (np.nan, np.inf, -np.inf)


def bounds_of(n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Whole; blocks of 8 and of 100; segments of any size with empty ones first, last and between."""
    yield np.array([0, n])
    for block in (8, 100):
        yield np.append(np.arange(0, n, block), n)
    cuts = np.sort(np.random.default_rng(seed).integers(0, n + 1, 5))
    yield np.sort(np.concatenate([[0, 0], cuts, cuts[2:3], [n, n]]))


def sparse_of(n: int, k: int, seed: int) -> tuple[NDArray[np.int32], Floats]:
    """k ascending indices below n, and their values."""
    random = np.random.default_rng(seed)
    indices = np.sort(random.permutation(n)[:k]).astype(np.int32)
    return indices, random.standard_normal(k).astype(np.float32)


KEEPS: Final = ("apart", "inplace", "none")
SHIFTS: Final = ((0, 0, 0), (1, 1, 1), (0, 3, 2), (4, 0, 4), (1, 0, 0), (0, 1, 0), (0, 0, 1))


def _choices(n: int) -> Iterator[tuple[str, Floats, Floats | None, str, tuple[int, int, int]]]:
    """Every kind of data, with what else may vary going round: (kind, g, e, keep, shifts)."""
    rounds = zip(
        itertools.cycle((True, True, False)),
        itertools.cycle(KEEPS[:2] + KEEPS),
        itertools.cycle(SHIFTS),
        strict=False,
    )
    for seed, (kind, (with_e, keep, shifts)) in enumerate(zip(KINDS, rounds, strict=False)):
        e = data_of(kind, n, 100 + seed) if with_e else None
        if kind == "equal" and e is not None:
            e *= np.float32(0.25)
        yield kind, data_of(kind, n, seed), e, keep, shifts


def law_topk(subject: Subject, n: int) -> None:
    for kind, g, e, keep, shifts in _choices(n):
        total = np.abs(g if e is None else g + e)
        some = (
            {0, 1, n // 100, n // 10, n // 2, n - 1, n} if kind in {"gaussian", "ties"} else {n // 20, n // 3}
        )
        for k in sorted(k for k in some if 0 <= k <= n):
            check_add_topk(subject, g, e, k, keep=keep, shifts=shifts)
        if n:
            true = float(np.sort(total)[-(n // 20 + 1)])
            for hint in (true, true * 0.99, true * 1.01, true * 0.5, true * 4, 1e-40, float(GREATEST)):
                check_add_topk(subject, g, e, n // 20 + 1, keep=keep, shifts=shifts, hint=hint)


def law_threshold(subject: Subject, n: int) -> None:
    for _, g, e, keep, shifts in _choices(n):
        total = np.abs(g if e is None else g + e)
        median = float(np.sort(total)[n // 2]) if n else 1.0
        for tau in (0.0, median, float(total.max(initial=0.0)), 1e39):
            check_add_threshold(subject, g, e, tau, keep=keep, shifts=shifts)


def law_sign(subject: Subject, n: int) -> None:
    for seed, (_, g, e, keep, shifts) in enumerate(_choices(n)):
        for bounds in bounds_of(n, seed):
            check_add_sign(subject, g, e, bounds, keep=keep, shifts=shifts)
            check_sign_residual(subject, g, bounds, inplace=keep == "inplace", shift=shifts[0])


def law_signs(subject: Subject, n: int) -> None:
    random = np.random.default_rng(n)
    bits = random.integers(0, 256, -(-n // 8), dtype=np.uint8)
    for shift, bounds in enumerate(bounds_of(n, n)):
        for weight in (1.0, -0.3, 1e-40):
            check_add_signs(subject, bits, bounds, weight, data_of("heavy", n), shift=shift)


def law_majority(subject: Subject, n: int) -> None:
    random = np.random.default_rng(n)
    for m in (1, 2, 3, 4, 17):
        rows = random.integers(0, 256, (m, -(-n // 8)), dtype=np.uint8)
        check_majority(subject, rows, shift=m % 4)
        check_majority(subject, np.repeat(rows[:1], m, 0))


def law_scatter(subject: Subject, n: int) -> None:
    for shift, k in enumerate(sorted({0, min(n, 1), n // 10, n // 2, n})):
        for weight in (1.0, -0.3):
            indices, values = sparse_of(n, k, k)
            check_scatter_add(subject, indices, values, weight, data_of("gaussian", n), shift=shift)


def law_merge(subject: Subject, n: int) -> None:
    counts = sorted({0, min(n, 1), n // 10, n})
    for shift, (a, b) in enumerate(itertools.product(counts, counts)):
        check_merge_add(subject, sparse_of(n, a, 1), sparse_of(n, b, 2), shift=shift % 4)
    low, high = sparse_of(n, n // 2, 3), sparse_of(n, n // 3, 4)
    high[0][:] += np.int32(n)
    check_merge_add(subject, low, high)
    check_merge_add(subject, high, low)


def law_quantize(subject: Subject, n: int) -> None:
    widths = itertools.cycle(range(2, 9))
    blocks = itertools.cycle((8, 64, 256, 1000, 1024, 4096, 1 << 20, 2**31 - 8))
    for kind, g, e, keep, shifts in _choices(n):
        for _ in range(7 if kind == "gaussian" else 2):
            check_quantize(subject, g, e, next(widths), next(blocks), keep=keep, shifts=shifts)
        next(blocks)


def law_gaps(subject: Subject, n: int) -> None:
    for shift, k in enumerate(sorted({0, min(n, 1), n // 100, n // 3, n})):
        check_gaps(subject, sparse_of(n, k, k)[0], n, shift=shift)
        far = sparse_of(n, k, k)[0].astype(np.int64) * ((2**31 - 2) // max(n, 1))
        check_gaps(subject, far.astype(np.int32), 2**31 - 1, shift=shift)


def law_mask(subject: Subject, n: int) -> None:
    for shift, k in enumerate(sorted({0, min(n, 1), n // 100, n // 3, n})):
        check_mask(subject, sparse_of(n, k, k)[0], n, shift=shift)


def law_not_finite(subject: Subject, n: int) -> None:
    """One spoilt element, in the update, in what was kept back, or made by their sum: e is as it was."""
    bounds = np.array([0, n])
    for at in {0, n // 2, n - 1} if n else ():
        for bad in SPOILS:
            good, spoilt = data_of("gaussian", n, 1), data_of("gaussian", n, 2)
            spoilt[at] = bad
            for g, e in ((good, spoilt), (spoilt, good), (spoilt, None)):
                _refused(subject, g, e)
                check_add_sign(subject, g, e, bounds)
        both = data_of("gaussian", n, 3)
        both[at] = GREATEST
        _refused(subject, both, both)


def _refused(subject: Subject, g: Floats, e: Floats | None) -> None:
    check_add_topk(subject, g, e, g.size // 2)
    check_add_threshold(subject, g, e, 0.5, keep="inplace")
    check_quantize(subject, g, e, 4, 64)


Law = Callable[[Subject, int], None]
LAWS: Final[dict[str, Law]] = {
    "topk": law_topk,
    "threshold": law_threshold,
    "sign": law_sign,
    "signs": law_signs,
    "majority": law_majority,
    "scatter": law_scatter,
    "merge": law_merge,
    "quantize": law_quantize,
    "gaps": law_gaps,
    "mask": law_mask,
    "not_finite": law_not_finite,
}
"""Name -> law; a test runs each at each of ``SIZES``."""


# -- what a peer may send -----------------------------------------------------------------------------------


def hostile_scatter(subject: Subject) -> None:
    out, values = data_of("gaussian", 1000), data_of("gaussian", 300)
    good = sparse_of(1000, 300, 1)[0]
    for at, bad in itertools.product((0, 1, 150, 299), (-1, 1000, 2**31 - 1, int(good[149]))):
        spoilt = good.copy()
        spoilt[at] = bad
        check_scatter_add(subject, spoilt, values, 1.0, out)
    # The difference to the index before it wraps around to a positive number.
    spoilt = good.copy()
    spoilt[299] = -(2**31)
    wrapped = subject.place(out)
    with pytest.raises(WireError):  # noqa: PT012 - a GPU raises at the check
        subject.backend.scatter_add(subject.place(spoilt).view, subject.place(values).view, 1.0, wrapped.view)
        subject.backend.check()
    same_bits(wrapped.host(), out)
    for at, number in itertools.product((0, 150, 299), SPOILS):
        broken = values.copy()
        broken[at] = number
        check_scatter_add(subject, good, broken, 1.0, out)
        check_scatter_add(subject, good[::-1].copy(), broken, 1.0, out)
    check_scatter_add(subject, good[:1], values[:1], 1.0, out[:0])


def hostile_gaps(subject: Subject) -> None:
    code = np.empty(5 * 300, np.uint8)
    used = REFERENCE.encode_gaps(sparse_of(100_000, 300, 1)[0], code)
    code = code[:used]
    for k, n in ((299, 100_000), (301, 100_000), (0, 100_000), (300, 99_000), (300, 0), (300, 2**31 - 1)):
        check_decode_gaps(subject, code, n, k)
    check_decode_gaps(subject, code[:-1], 100_000, 300)
    for bad in (
        [0x80],
        [0xFF] * 4,
        [0xFF] * 5,
        [0xFF] * 9,
        [0xFF] * 4 + [0x7F],
        [0xFF] * 5 + [0],
        [0x80] * 4 + [0],
    ):
        for front in (0, 3, 300):
            whole = np.concatenate(
                [np.zeros(front, np.uint8), np.array(bad, np.uint8), np.zeros(3, np.uint8)]
            )
            for k in (front, front + 1, front + 4):
                check_decode_gaps(subject, whole, 2**31 - 1, k)
                check_decode_gaps(subject, whole[:-3], 2**31 - 1, k)
    random = np.random.default_rng(0)
    for _ in range(20):
        noise = random.integers(0, 256, 600, dtype=np.uint8)
        check_decode_gaps(subject, noise, 2**31 - 1, 300)


def hostile_mask(subject: Subject) -> None:
    for n in (1, 9, 257, 5003):
        mask = np.zeros(-(-n // 8), np.uint8)
        for k in (0, 1, 2):
            check_decode_mask(subject, mask, n, k)
        if n % 8:
            mask[-1] = 0x80
            check_decode_mask(subject, mask, n, 1)
        mask[:] = 0xFF
        for k in (0, n - 1, n, n + 8):
            check_decode_mask(subject, mask, n, k)


def errors_come_once(subject: Subject) -> None:
    """An error is raised by one check, and none is left for the next; sound calls between do not hide it."""
    g = data_of("gaussian", 100)
    spoilt = g.copy()
    spoilt[3] = np.nan
    bits, scales = subject.room(13, "uint8"), subject.room(1, "float32")
    bounds = subject.place(np.array([0, 100]))
    with pytest.raises(NotFiniteError):  # noqa: PT012 - a GPU raises at the check
        for update in (spoilt, g):
            subject.backend.add_sign(
                subject.place(update).view, None, None, None, bounds.view, bits.view, scales.view
            )
        subject.backend.check()
    subject.backend.check()
    with pytest.raises(WireError):  # noqa: PT012
        subject.backend.decode_mask(bits.view, 100, subject.room(0, "int32").view)
        subject.backend.check()
    subject.backend.check()


HOSTILE: Final[dict[str, Callable[[Subject], None]]] = {
    "scatter": hostile_scatter,
    "gaps": hostile_gaps,
    "mask": hostile_mask,
    "errors": errors_come_once,
}


def check_backend(subject: Subject, sizes: tuple[int, ...] = SIZES) -> None:
    """All of it, for a script; tests go through the tables to name what fails."""
    for n in sizes:
        for law in LAWS.values():
            law(subject, n)
    for hostile in HOSTILE.values():
        hostile(subject)
