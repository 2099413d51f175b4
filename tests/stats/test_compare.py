"""Many tests at once, and the ranks that they leave: by hand, and by their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from metabench import stats


def test_holms_adjustment_is_that_of_the_textbook() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1, and never falling.
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]) == []
    assert stats.holm([0.9, 0.8]) == [1, 1]


def test_what_is_no_test_stays_nan_and_is_not_counted() -> None:
    adjusted = stats.holm([0.02, np.nan, 0.5])
    assert adjusted[::2] == pytest.approx([0.04, 0.5])
    assert np.isnan(adjusted[1])


@given(some.lists(some.floats(0, 1), min_size=1, max_size=30))
def test_adjusting_keeps_the_order_and_lies_between_none_and_bonferroni(p: list[float]) -> None:
    adjusted = np.array(stats.holm(p))
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_ranks_count_what_is_better_and_worse_beyond_doubt() -> None:
    # 0 beats 2 and 3, 1 beats 3; nothing else is beyond doubt.
    better = np.zeros((4, 4), bool)
    better[0, [2, 3]] = better[1, 3] = True
    assert stats.rank_ranges(better) == [(1, 2), (1, 3), (2, 4), (3, 4)]
    assert stats.rank_ranges(np.zeros((3, 3), bool)) == [(1, 3)] * 3
    assert stats.rank_ranges(np.triu(np.ones((3, 3), bool), 1)) == [(1, 1), (2, 2), (3, 3)]


def test_the_probability_of_being_higher_counts_ties_half() -> None:
    compared = stats.paired([[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0]])
    # The first seed wins and ties, the second wins twice.
    assert compared.higher == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_a_side_that_training_cannot_change_leaves_the_other_sides_seeds() -> None:
    rng = np.random.default_rng(0)
    x = 0.6 + rng.normal(0, 0.05, (4, 1)) + rng.normal(0, 0.1, 200)
    flat = np.full((1, 200), 0.5)
    compared = stats.paired(x, flat, trained=(True, False))
    alone = stats.seeds_and_tasks(x)
    assert compared.over == "seeds and tasks"
    assert compared.high - compared.low == pytest.approx(alone.high - alone.low, rel=0.06)
    assert stats.paired(flat, flat - 0.1, trained=(False, False)).over == "tasks"


def test_the_best_is_given_up_where_another_is_surely_better_for_so_many_rows() -> None:
    behind = [[np.nan, 0.9, 0.6], [0.01, np.nan, 0.4], [0.4, 0.5, np.nan]]
    assert stats.p_best(behind, 3) == pytest.approx([1, 0.02, 0.8])
    assert stats.p_best(behind, 4) == pytest.approx([1, 0.03, 1])  # a fourth row asks more of each
    assert stats.p_best([[np.nan]], 1) == [1]
    assert stats.p_best(np.full((2, 2), np.nan), 1) == [1, 1]  # the same result twice
    assert np.isnan(stats.p_best(np.full((2, 2), np.nan), 2)).all()
    assert stats.p_best(np.empty((0, 0)), 0) == []
