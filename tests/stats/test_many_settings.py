"""Ranks, profiles and tests over settings: by hand, and by their laws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from metabench.stats import holm, many_settings

COSTS = np.array([[0.1, 0.2, 0.4], [0.2, 0.2, 0.2], [0.15, 0.5, 0.3]])


def test_ranks_are_within_settings_and_ties_share_them() -> None:
    assert many_settings.ranks(COSTS).tolist() == [[1, 1.5, 3], [3, 1.5, 1], [2, 3, 2]]


def test_the_profile_counts_settings_near_the_lowest_cost() -> None:
    profile = many_settings.profile(COSTS, (1.0, 1.5, 2.0, 3.0))
    third = 1 / 3
    # Times the lowest: 1, 1, 2; 2, 1, 1; 1.5, 2.5, 1.5.
    assert profile == pytest.approx(
        np.array([[2 * third, 2 * third, 1, 1], [2 * third, 2 * third, 1, 1], [0, 2 * third, 2 * third, 1]])
    )
    assert many_settings.profile([[0.0, 0.0], [0.0, 0.1]], (1.0, 100.0)).tolist() == [[1, 1], [0.5, 0.5]]


def test_what_is_unknown_has_no_profile() -> None:
    broken = COSTS.copy()
    broken[2, 1] = np.nan
    assert np.isnan(many_settings.profile(broken)[2]).all()


def test_the_tests_over_settings_are_scipys_adjusted_by_holm() -> None:
    costs = np.random.default_rng(0).uniform(0.1, 0.5, (3, 12)) + np.array([[0.0], [0.02], [0.3]])
    table = many_settings.signed_ranks(costs)
    pairs = [(1, 0), (2, 0), (2, 1)]
    expected = holm([scipy_stats.wilcoxon(costs[a], costs[b]).pvalue for a, b in pairs])
    assert [table[a, b] for a, b in pairs] == pytest.approx(expected)
    assert (table == table.T).all()
    assert (np.diag(table) == 1).all()
    assert many_settings.friedman(costs) == pytest.approx(scipy_stats.friedmanchisquare(*costs).pvalue)
    assert many_settings.signed_ranks(costs[[0, 0]]).min() == 1
    assert np.isnan(many_settings.friedman(costs[:2]))
