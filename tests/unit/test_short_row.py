"""What is done around short messages: the C++ gives the bits of the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpc_fl.backends.short_row import Floats, NativeShortRow, ReferenceShortRow, ShortRow, short_row

DTYPES = ("f4", "f8")
WEIGHTS = st.floats(-2, 2)


def both(
    row: Floats, slots: Floats, keep: float, takes: Sequence[float]
) -> list[tuple[Floats, Floats, ShortRow]]:
    """By the reference and by C++, each on memory of its own."""
    made: list[tuple[Floats, Floats, ShortRow]] = []
    for kind in (ReferenceShortRow, NativeShortRow):
        mine, theirs = row.copy(), slots.copy()
        made.append((mine, theirs, kind(mine, theirs, keep, takes)))
    return made


@st.composite
def rows(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """A row and slots of any bits at all."""
    n, sources = draw(st.integers(1, 70)), draw(st.integers(0, 3))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return draw(arrays(dtype, n)), draw(arrays(dtype, (sources, n)))


@given(rows(), WEIGHTS, st.lists(WEIGHTS, min_size=3, max_size=3))
def test_native_is_the_reference(given_rows: tuple[Floats, Floats], keep: float, takes: list[float]) -> None:
    found = []
    with np.errstate(all="ignore"):
        for row, slots, around in both(*given_rows, keep, takes[: len(given_rows[1])]):
            ready = around.ready()
            assert np.isnan(slots[:, 0]).all()
            slots[:] = given_rows[1]
            around.mix()
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
            for mine, _, around in both(row, np.zeros((1, n), dtype), 0.5, [0.5]):
                assert around.ready()
                mine[place] = spoilt
                assert not around.ready()


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_rounded_before_they_multiply(dtype: str) -> None:
    """As :class:`hpc_fl.collectives.columns.Columns` does, so that a neighbour may go either way."""
    rng = np.random.default_rng(5)
    row, slots = rng.standard_normal(1023).astype(dtype), rng.standard_normal((2, 1023)).astype(dtype)
    third = np.asarray(1 / 3, dtype)
    expected = row * third + slots[0] * third + slots[1] * third
    for mine, theirs, around in both(row, slots, 1 / 3, [1 / 3] * 2):
        assert around.ready()
        theirs[:] = slots
        around.mix()
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_nothing_arrives_the_row_takes_its_place(dtype: str) -> None:
    """The row as it was, also for the second slot and beyond the first piece that is added up."""
    rng = np.random.default_rng(6)
    row, other = rng.standard_normal(1300).astype(dtype), rng.standard_normal(1300).astype(dtype)
    quarter, half = row.dtype.type(0.25), row.dtype.type(0.5)
    for mine, theirs, around in both(row, np.zeros((2, 1300), dtype), 0.25, [0.25, 0.5]):
        assert around.ready()
        theirs[0] = other
        around.mix()
        np.testing.assert_array_equal(mine, row * quarter + other * quarter + row * half)


def test_the_backend_of_the_cpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpc_fl.backends.choice import cpu

    row, slots = np.ones(4, np.float32), np.ones((1, 4), np.float32)
    assert isinstance(short_row(row, slots, 0.5, [0.5]), NativeShortRow)
    cpu.cache_clear()
    monkeypatch.setenv("HPC_FL_BACKEND", "reference")
    assert isinstance(short_row(row, slots, 0.5, [0.5]), ReferenceShortRow)
    cpu.cache_clear()
