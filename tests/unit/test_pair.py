"""What is done around a short message: the C++ gives the bits of the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpc_fl.backends.pair import Floats, NativePair, Pair, ReferencePair, pair_of

DTYPES = ("f4", "f8")
WEIGHTS = st.floats(-2, 2)


def both(row: Floats, slot: Floats, keep: float, take: float) -> list[tuple[Floats, Floats, Pair]]:
    """By the reference and by C++, each on memory of its own."""
    made: list[tuple[Floats, Floats, Pair]] = []
    for kind in (ReferencePair, NativePair):
        mine, theirs = row.copy(), slot.copy()
        made.append((mine, theirs, kind(mine, theirs, keep, take)))
    return made


@st.composite
def rows(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Two rows of any bits at all."""
    n = draw(st.integers(1, 70))
    any_row = draw(st.sampled_from([arrays(np.float32, n), arrays(np.float64, n)]))
    return draw(any_row), draw(any_row)


@given(rows(), WEIGHTS, WEIGHTS)
def test_native_is_the_reference(given_rows: tuple[Floats, Floats], keep: float, take: float) -> None:
    found = []
    with np.errstate(all="ignore"):
        for row, slot, pair in both(*given_rows, keep, take):
            ready = pair.ready()
            assert np.isnan(slot[0])
            slot[:] = given_rows[1]
            pair.mix()
            found.append((ready, row))
    assert found[0][0] == found[1][0] == bool(np.isfinite(given_rows[0]).all())
    np.testing.assert_array_equal(found[0][1], found[1][1])  # NaN equals NaN, whatever its payload
    assert (np.signbit(found[0][1]) == np.signbit(found[1][1]))[~np.isnan(found[0][1])].all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spoilt", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_element_that_is_not_finite_is_found_anywhere(dtype: str, spoilt: float) -> None:
    for n in (1, 2, 31, 64, 1025):
        for place in {0, n // 2, n - 1}:
            row = np.full(n, np.finfo(dtype).max, dtype)  # whose squares are infinite, and which is fine
            for mine, _, pair in both(row, np.zeros_like(row), 0.5, 0.5):
                assert pair.ready()
                mine[place] = spoilt
                assert not pair.ready()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_rounded_before_they_multiply(dtype: str) -> None:
    """As :class:`hpc_fl.collectives.columns.Columns` does, so that a peer may go either way."""
    rng = np.random.default_rng(5)
    row, slot = (rng.standard_normal(1023).astype(dtype) for _ in range(2))
    expected = row * np.asarray(1 / 3, dtype) + slot * np.asarray(2 / 3, dtype)
    for mine, theirs, pair in both(row, slot, 1 / 3, 2 / 3):
        assert pair.ready()
        theirs[:] = slot
        pair.mix()
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_nothing_arrives_the_row_takes_its_place(dtype: str) -> None:
    row = np.random.default_rng(6).standard_normal(77).astype(dtype)
    for mine, _, pair in both(row, np.zeros_like(row), 0.25, 0.75):
        assert pair.ready()
        pair.mix()
        np.testing.assert_array_equal(mine, row * row.dtype.type(0.25) + row * row.dtype.type(0.75))


def test_the_backend_of_the_cpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpc_fl.backends.choice import cpu

    row = np.ones(4, np.float32)
    assert isinstance(pair_of(row, row.copy(), 0.5, 0.5), NativePair)
    cpu.cache_clear()
    monkeypatch.setenv("HPC_FL_BACKEND", "reference")
    assert isinstance(pair_of(row, row.copy(), 0.5, 0.5), ReferencePair)
    cpu.cache_clear()
