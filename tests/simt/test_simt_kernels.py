"""The CUDA kernels and their host side, run by the interpreter, against the reference."""

from pathlib import Path

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
    check_decode_gaps,
    check_merge_add,
    check_quantize,
)
from laws.kernels import HOSTILE, LAWS, SIZES, bounds_of, data_of, sparse_of
from numpy.typing import NDArray
from simt.interpreter import Interpreter, Order
from simt.subject import subject, subject_on

# The sample of top-k is all of the data up to here.
SAMPLED = 32 * 1024


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("law", LAWS)
def test_law(built: Path, law: str, n: int) -> None:
    LAWS[law](subject(built, Order.SHUFFLED, seed=n + 1), n)


@pytest.mark.parametrize("order", [order for order in Order if order is not Order.SHUFFLED])
@pytest.mark.parametrize("law", LAWS)
def test_law_in_another_order(built: Path, law: str, order: Order) -> None:
    """Less than a block, and many: what lies between has no order of blocks of its own."""
    for n in (33, 5003):
        LAWS[law](subject(built, order), n)


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_peer_may_send(built: Path, hostile: str, order: Order) -> None:
    HOSTILE[hostile](subject(built, order))


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("kind", ["gaussian", "heavy", "zeros", "equal", "ties", "ascending", "few"])
def test_topk_of_more_than_the_sample_takes(built: Path, kind: str, order: Order) -> None:
    n = SAMPLED + 5003
    g, e = data_of(kind, n, 1), data_of("gaussian", n, 2) * np.float32(kind == "gaussian")
    for k in (0, 1, n // 1000, n // 100, n // 2, n - 1, n):
        check_add_topk(subject(built, order), g, e, k)


@pytest.mark.parametrize("keep", ["apart", "inplace", "none"])
def test_topk_that_the_sample_does_not_foresee(built: Path, keep: str) -> None:
    """What is large lies where no sample is taken, or only there: the result is the same, by another way."""
    n = SAMPLED + 5003
    part = np.arange(n) % (n // 4096)
    for large in (part == 7, part == 0, np.arange(n) < 1500):
        g = np.where(large, data_of("heavy", n, 1) + 9, data_of("gaussian", n, 2)).astype(np.float32)
        for k in (40, 1000, n // 3):
            check_add_topk(subject(built, Order.SHUFFLED), g, data_of("gaussian", n, 3), k, keep=keep)


def test_a_hint_may_be_what_the_last_call_returned(built: Path) -> None:
    backend = subject(built).backend
    indices, values = np.empty(50, np.int32), np.empty(50, np.float32)
    hint = 0.0
    for seed in range(3):
        g = data_of("gaussian", 5003, seed)
        hint = backend.add_topk(g, None, None, indices, values, hint)
        assert isinstance(hint, np.ndarray)
        assert hint == np.sort(np.abs(g))[-50]


def test_means_do_not_depend_on_the_order_of_blocks(built: Path) -> None:
    n = 300_000
    g = data_of("heavy", n)
    for bounds in (np.array([0, n]), np.array([0, 5, 200_000, n])):
        found = []
        for order in Order:
            scales, bits = np.empty(len(bounds) - 1, np.float32), np.empty(-(-n // 8), np.uint8)
            subject(built, order).backend.add_sign(g, None, None, None, bounds, bits, scales)
            found.append(scales)
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])
    check_add_sign(subject(built), g, data_of("gaussian", n), bounds)


def test_many_segments(built: Path) -> None:
    """More than one block adds up: one segment a thread, and a long one among them."""
    bounds = np.append(np.arange(5000), 5000 + 1024 * 80)
    n = int(bounds[-1])
    check_add_sign(subject(built, Order.SHUFFLED), data_of("gaussian", n), data_of("gaussian", n, 2), bounds)


def test_working_memory_is_taken_once(built: Path) -> None:
    class Counting(Interpreter):
        taken = 0

        def empty(self, shape: int | tuple[()], dtype: str) -> NDArray[np.generic]:
            self.taken += 1
            return super().empty(shape, dtype)

    launcher = Counting(built)
    counted = subject_on(launcher)
    g = data_of("gaussian", 1000)
    for _ in range(3):
        before = launcher.taken
        check_add_topk(counted, g, None, 100)
        check_add_threshold(counted, g, None, 0.5)
        check_add_sign(counted, g, None, np.array([0, 1000]))
        check_merge_add(counted, sparse_of(1000, 30, 1), sparse_of(1000, 40, 2))
    assert launcher.taken == before + 1, "only what top-k returns"


# -- any input ----------------------------------------------------------------------------------------------


def any_floats() -> st.SearchStrategy[Floats]:
    """Few bits apart, so that ties and near ties come up; or any at all, NaN and infinities among them."""
    few = st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, float(np.nextafter(np.float32(1), np.float32(2))), 1e-45, 3e38]
    )
    length = st.integers(0, 300)
    return st.one_of(
        length.flatmap(lambda n: arrays(np.float32, n, elements=few)),
        length.flatmap(lambda n: arrays(np.float32, n, elements=st.floats(width=32))),
    )


anyhow = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def shuffled(built: Path) -> Subject:
    return subject(built, Order.SHUFFLED)


@anyhow
@given(g=any_floats(), share=st.floats(0, 1), hint=st.floats(0, width=32))
def test_topk_of_anything(shuffled: Subject, g: Floats, share: float, hint: float) -> None:
    check_add_topk(shuffled, g, None, int(share * g.size), hint=hint)
    check_add_threshold(shuffled, g, g[::-1].copy(), share)


@anyhow
@given(g=any_floats(), seed=st.integers(0, 99))
def test_signs_of_anything(shuffled: Subject, g: Floats, seed: int) -> None:
    for bounds in bounds_of(g.size, seed):
        check_add_sign(shuffled, g, None, bounds)


@anyhow
@given(g=any_floats(), width=st.integers(2, 8), groups=st.integers(1, 200), key=st.integers(0, 2**64 - 1))
def test_quantised_anything(shuffled: Subject, g: Floats, width: int, groups: int, key: int) -> None:
    check_quantize(shuffled, g, None, width, 8 * groups, key=key)


@anyhow
@given(code=st.binary(max_size=60), n=st.integers(0, 2**31 - 1), k=st.integers(0, 60))
def test_gaps_of_any_bytes(shuffled: Subject, code: bytes, n: int, k: int) -> None:
    check_decode_gaps(shuffled, np.frombuffer(code, np.uint8), n, k)
