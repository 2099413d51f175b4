"""The Gaussian process against textbook formulas, by other routes, and in its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from metabench.search.journal import gaussian
from metabench.search.journal.gaussian import Array

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (5, 3))
FLOORS = np.array([0.0, 0.0, 0.8])
ROW = np.array([0, 0, 1, 1, 1, 2, 3, 4, 4])
U = np.array([-1.0, -0.5, -1.0, -0.6, 0.0, -1.0, -1.0, -1.0, 0.0])
Y = RNG.standard_normal(len(ROW))
NOISE = np.full(len(ROW), 0.05)


def prior(row: Array, u: Array, other: Array, v: Array, x: Array = X) -> Array:
    """Return the prior covariance, entry by entry as the model is written."""
    table = np.zeros((len(row), len(other)))
    for i, (a, s) in enumerate(zip(row, u, strict=True)):
        for j, (b, t) in enumerate(zip(other, v, strict=True)):
            apart = (x[a] - x[b]) ** 2
            kernel = np.exp(-(apart[0] + apart[1]) / 2) * (0.8 + 0.2 * np.exp(-apart[2] / 2))
            slope = gaussian.SLOPE**2 * (s - gaussian.PIVOT) * (t - gaussian.PIVOT)
            table[i, j] = gaussian.LEVEL**2 + gaussian.TREND**2 * s * t
            table[i, j] += kernel * (gaussian.SETTING**2 + slope)
            if a == b:
                walked = min(s, t) + gaussian.WALKED_FROM
                table[i, j] += gaussian.OFFSET**2 + gaussian.WALK**2 * walked
    return table


def fast_prior(row: Array, u: Array, other: Array, v: Array, x: Array = X) -> Array:
    kernel = gaussian.similarity(x, x, FLOORS)[np.ix_(row, other)]
    return gaussian.covariance(kernel, row[:, None] == other[None, :], u[:, None], v[None, :])


def test_the_covariance_is_the_models() -> None:
    assert fast_prior(ROW, U, ROW, U) == pytest.approx(prior(ROW, U, ROW, U), abs=1e-12)


def test_the_posterior_is_the_textbooks() -> None:
    fit = gaussian.condition(2.0, fast_prior(ROW, U, ROW, U), Y, NOISE)
    asked, v = np.arange(5), np.zeros(5)
    explained = gaussian.whiten(fit, fast_prior(ROW, U, asked, v))
    assert gaussian.mean(fit, fast_prior(ROW, U, asked, v)) == pytest.approx(explained.T @ fit.whitened)
    dense, cross = 2 * prior(ROW, U, ROW, U) + np.diag(NOISE), 2 * prior(ROW, U, asked, v)
    assert explained.T @ fit.whitened == pytest.approx(cross.T @ np.linalg.inv(dense) @ Y, abs=1e-8)
    left = 2 * prior(asked, v, asked, v) - cross.T @ np.linalg.inv(dense) @ cross
    assert 2 * fast_prior(asked, v, asked, v) - explained.T @ explained == pytest.approx(left, abs=1e-8)


def test_the_likelihood_is_that_of_a_normal_distribution_and_the_best_factor_is_taken() -> None:
    table = fast_prior(ROW, U, ROW, U)
    likelihoods = {
        factor: multivariate_normal.logpdf(Y, np.zeros(len(Y)), factor * table + np.diag(NOISE))
        for factor in gaussian.FACTORS
    }
    for factor, likelihood in likelihoods.items():
        assert gaussian.condition(factor, table, Y, NOISE).log_likelihood == pytest.approx(likelihood)
    assert gaussian.fit(table, Y, NOISE).factor == max(likelihoods, key=lambda one: likelihoods[one])
    for scale in (0.1, 10.0):  # of scores, not of their noise: then the largest, or the smallest, fits best
        fitted = gaussian.fit(table, scale * Y, NOISE / 1e4).factor
        assert fitted == (max if scale > 1 else min)(gaussian.FACTORS)


def test_without_noise_scores_are_met_and_with_much_they_are_ignored() -> None:
    table = fast_prior(ROW, U, ROW, U)
    for noise, expected in ((1e-10, Y), (1e12, 0 * Y)):
        fit = gaussian.condition(1.0, table, Y, np.full(len(Y), noise))
        assert gaussian.whiten(fit, table).T @ fit.whitened == pytest.approx(expected, abs=1e-6)


def test_equal_settings_are_one_and_distant_ones_tell_nothing_of_each_other() -> None:
    far = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1e3, 0.0, 0.0], [0.0, 0.0, 1e3]])
    kernel = gaussian.similarity(far, far, FLOORS)
    assert kernel[0].tolist() == pytest.approx([1.0, 1.0, 0.0, 0.8])
    assert np.linalg.eigvalsh(gaussian.similarity(X, X, FLOORS)).min() > 0


def test_log_tasks_are_0_at_the_full_budget_and_minus_1_at_a_27th() -> None:
    assert gaussian.log_tasks([27.0, 9.0, 1.0], 27).tolist() == pytest.approx([0.0, -1 / 3, -1.0])


@pytest.mark.parametrize(("gap", "spread"), [(0.0, 1.0), (-2.0, 1.0), (3.0, 0.5), (-0.1, 0.01)])
def test_expected_improvement_is_the_integral(gap: float, spread: float) -> None:
    integral = quad(lambda d: d * norm.pdf(d, gap, spread), 0, max(gap, 0) + 12 * spread)[0]
    got = gaussian.expected_improvement(np.array([gap]), np.array([spread]))
    assert got[0] == pytest.approx(integral, abs=1e-9)


def test_expected_improvement_of_what_is_certain_is_the_gap_or_nothing() -> None:
    got = gaussian.expected_improvement(np.array([-1.0, 0.0, 2.0]), np.zeros(3))
    assert got.tolist() == [0.0, 0.0, 2.0]


def test_the_expected_best_is_that_of_one_and_of_copies_alike() -> None:
    one = gaussian.expected_best(np.array([-0.5]), np.array([[1.0]]))
    exact = gaussian.expected_improvement(np.array([-0.5]), np.array([1.0]))[0]
    assert one == pytest.approx(exact, abs=0.1)  # 512 draws: a standard error of 0.02
    copies = gaussian.expected_best(np.full(6, -0.5), np.ones((6, 6)))
    assert copies == pytest.approx(exact, abs=0.1)
    assert gaussian.expected_best(np.full(6, -0.5), np.eye(6)) > 2 * exact
