"""Laws of the placement of parties on ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl.data import place
from hpc_fl.errors import DataError

SIZES = st.lists(st.integers(0, 1000), max_size=50)
RANKS = st.integers(1, 12)


@given(SIZES, RANKS)
def test_every_party_is_placed_once_and_ids_ascend(sizes: list[int], ranks: int) -> None:
    placed = place(sizes, ranks)
    assert len(placed) == ranks
    assert sorted(party for parties in placed for party in parties) == list(range(len(sizes)))
    assert all(list(parties) == sorted(parties) for parties in placed)
    assert placed == place(np.array(sizes, np.int64), ranks)


@given(SIZES, RANKS)
def test_no_rank_exceeds_another_by_more_than_one_party(sizes: list[int], ranks: int) -> None:
    loads = [sum(sizes[party] for party in parties) for parties in place(sizes, ranks)]
    assert max(loads) - min(loads) <= max(sizes, default=0)


@given(st.integers(0, 100), st.integers(0, 60), RANKS)
def test_equal_sizes_give_equal_counts(size: int, parties: int, ranks: int) -> None:
    counts = [len(hosted) for hosted in place([size] * parties, ranks)]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.integers(2, 3))
def test_the_largest_rank_is_within_graham_s_bound(sizes: list[int], ranks: int) -> None:
    def best(party: int, loads: tuple[int, ...]) -> int:
        if party == len(sizes):
            return max(loads)
        choices = [(*loads[:rank], loads[rank] + sizes[party], *loads[rank + 1 :]) for rank in range(ranks)]
        return min(best(party + 1, choice) for choice in choices)

    largest = max(sum(sizes[party] for party in parties) for parties in place(sizes, ranks))
    assert largest * 3 * ranks <= best(0, (0,) * ranks) * (4 * ranks - 1)


def test_more_ranks_than_parties_leave_ranks_empty() -> None:
    assert place([3, 9], 4) == ((1,), (0,), (), ())
    assert place([], 2) == ((), ())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(DataError, match="0 ranks"):
        place([1], 0)
    with pytest.raises(DataError, match="party 1 has the size -2"):
        place([1, -2], 1)
