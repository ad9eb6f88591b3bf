"""Cohorts: the same everywhere, and drawn as said."""

import numpy as np
import pytest

from hpc_fl.errors import ConfigError
from hpc_fl.training.cohort import Drawn, Everybody, Listed


def test_everybody() -> None:
    assert Everybody(3)(7) == (0, 1, 2)


def test_a_drawn_cohort_depends_on_seed_and_round_only() -> None:
    cohort = Drawn(50, 7, seed=1)
    assert cohort(3) == Drawn(50, 7, seed=1)(3)
    assert len({cohort(r) for r in range(20)} | {Drawn(50, 7, seed=2)(r) for r in range(20)}) == 40
    for r in range(20):
        ids = cohort(r)
        assert list(ids) == sorted(set(ids))
        assert len(ids) == 7
        assert 0 <= ids[0] <= ids[-1] < 50


def test_uniform_draws_are_uniform() -> None:
    times = np.bincount([p for r in range(4000) for p in Drawn(10, 3, seed=0)(r)], minlength=10)
    # 1,200 expected of each, standard deviation 29: five of them.
    assert abs(times - 1200).max() < 145


def test_weighted_draws_follow_the_weights() -> None:
    weights = np.array([1, 2, 0, 5])
    first = np.bincount([Drawn(4, 1, 0, weights)(r)[0] for r in range(8000)], minlength=4)
    assert first[2] == 0
    assert abs(first - 8000 * weights / 8).max() < 5 * np.sqrt(2000)


def test_all_that_can_be_drawn_are_drawn() -> None:
    assert Drawn(4, 3, 0, np.array([1, 2, 0, 5]))(0) == (0, 1, 3)
    assert Drawn(4, 4, 0)(0) == (0, 1, 2, 3)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="only 3 of 4"):
        Drawn(4, 4, 0, np.array([1, 2, 0, 5]))


def test_listed_rounds_start_over() -> None:
    cohort = Listed([[2, 0], [1]], 3)
    assert [cohort(r) for r in range(3)] == [(0, 2), (1,), (0, 2)]


@pytest.mark.parametrize(("rounds", "says"), [([[0, 3]], "party 3"), ([[]], "no party"), ([[1, 1]], "twice")])
def test_lists_that_name_nobody_are_refused(rounds: list[list[int]], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Listed(rounds, 3)
