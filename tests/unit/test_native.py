"""The C++ kernels are the reference, on every instruction set and number of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from laws.kernel_checks import (
    Floats,
    Subject,
    check_add_sign,
    check_add_threshold,
    check_add_topk,
    check_quantize,
)
from laws.kernels import HOSTILE, LAWS, SIZES, data_of

from hpc_fl.backends.checks import Checked
from hpc_fl.backends.library import load
from hpc_fl.backends.native import Native
from hpc_fl.backends.quick import Quick

SETS = tuple(load().sets)


@pytest.fixture(params=[(isa, threads) for isa in SETS for threads in (1, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def subject(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """On one thread as few elements are worked on; on three as many are."""
    isa, threads = request.param
    monkeypatch.setattr("hpc_fl.backends.native._PER_THREAD", 1)
    native = Native(isa, threads)
    return Subject(Quick(native) if threads == 1 else Checked(native, np.ndarray), lambda x: x, lambda x: x)


@pytest.mark.parametrize("law", LAWS)
def test_equals_the_reference(subject: Subject, law: str) -> None:
    for n in SIZES:
        LAWS[law](subject, n)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_refuses_what_a_peer_may_send(subject: Subject, hostile: str) -> None:
    HOSTILE[hostile](subject)


@pytest.mark.parametrize("law", LAWS)
def test_equals_the_reference_over_many_blocks(subject: Subject, law: str) -> None:
    """Parts of several threads, samples smaller than the buffer, guesses that fail."""
    for n in (12_289, 70_001):
        LAWS[law](subject, n)


ANY = Subject(Quick(Native()), lambda x: x, lambda x: x)
"""On the best instruction set."""
BUFFERS = st.integers(0, 700).flatmap(
    lambda n: st.tuples(*2 * [arrays(np.float32, n, elements=st.floats(width=32, allow_subnormal=True))])
)
"""Pairs of any bits at all: NaN and infinity are refused, by the reference and here alike."""


@given(BUFFERS, st.floats(0, 1), st.floats(0, 1e30))
@settings(deadline=None)
def test_selection_of_anything(pair: tuple[Floats, Floats], share: float, hint: float) -> None:
    g, e = pair
    check_add_topk(ANY, g, e, round(share * g.size), keep="inplace", hint=hint)
    check_add_threshold(ANY, g, None, hint)


@given(BUFFERS, st.integers(2, 8), st.integers(1, 40), st.integers(0, 2**64 - 1))
@settings(deadline=None)
def test_few_bits_of_anything(pair: tuple[Floats, Floats], width: int, eights: int, key: int) -> None:
    g, e = pair
    cuts = np.unique(np.linspace(0, g.size, eights + 1).astype(np.int64))
    check_add_sign(ANY, g, e, cuts if g.size else np.array([0, 0]))
    check_quantize(ANY, g, e, width, 8 * eights, key=key, keep="inplace")


def test_wide_means_keep_their_precision() -> None:
    """Sums of a million equal magnitudes: rounding goes the same way each time, and must not add up."""
    x = np.full(1_000_003, 0.1, np.float32)
    for isa in SETS:
        bits, scales = np.empty(-(-x.size // 8), np.uint8), np.empty(1, np.float32)
        Native(isa, 1).add_sign(x, None, None, None, np.array([0, x.size]), bits, scales)
        assert abs(scales[0] / np.float32(0.1) - 1) < 1e-6


def test_the_number_of_threads_changes_no_bit() -> None:
    x = data_of("heavy", 500_001)
    bounds = np.array([0, 77, 4099, 300_000, x.size])
    found = []
    for threads in (1, 2, 3, 5):
        native = Native(threads=threads)
        bits, scales, c = np.empty(-(-x.size // 8), np.uint8), np.empty(4, np.float32), np.empty_like(x)
        native.add_sign(x, None, None, c, bounds, bits, scales)
        indices, values = np.empty(5000, np.int32), np.empty(5000, np.float32)
        native.add_topk(x, c, c.copy(), indices, values)
        found.append(b"".join(a.tobytes() for a in (bits, scales, c, indices, values)))
    assert len(set(found)) == 1
