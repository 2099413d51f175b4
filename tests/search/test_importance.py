"""Importance speaks of the full budget, of what was searched, and only where enough trials do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import COMPLETE, PRUNED, Trial
from metabench.search.propose import importance
from tests.search.played import make_report


def made(sampled: dict[str, Any], score: float | None, status: str = COMPLETE, tasks: int = 900) -> Trial:
    trial = Trial("maml-000", "maml", 0, sampled, sampled, False, 0)
    trial.reports.append(make_report(tasks, score))
    trial.status = status
    return trial


def trials(n_trials: int, seed: int = 0) -> list[Trial]:
    """Draw settings of which the inner rate alone decides."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_trials):
        rate, steps = float(10 ** rng.uniform(-2, 0)), int(rng.integers(1, 6))
        found.append(made({"inner_lr": rate, "inner_steps": steps}, 0.8 - abs(np.log10(rate) + 0.5) / 4))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_decides_has_the_largest_share_and_shares_add_up(space: SearchSpace, seed: int) -> None:
    found = importance.measure(space, "maml", trials(60, seed))
    assert found is not None
    assert next(iter(found.shares)) == "inner_lr"
    assert found.shares["inner_lr"] > 0.6
    assert sum(found.shares.values()) == pytest.approx(1)
    assert (found.n_trials, found.n_best) == (60, 6)


def test_who_did_not_see_the_full_budget_changes_nothing(space: SearchSpace) -> None:
    full = trials(30)
    others = [made({"inner_lr": 0.5, "inner_steps": 5}, 0.99, PRUNED, 100) for _ in range(30)]
    others += [made({"inner_lr": 0.5, "inner_steps": 5}, 0.99, COMPLETE, 300)]  # of a smaller budget once
    others += [made({"inner_lr": 0.5, "inner_steps": 5}, None, "diverged", 900)]
    assert importance.measure(space, "maml", [*others, *full]) == importance.measure(space, "maml", full)


def test_too_few_trials_say_nothing(space: SearchSpace) -> None:
    full = trials(importance.LEAST)
    assert importance.measure(space, "maml", full[:-1]) is None
    assert importance.measure(space, "maml", full) is not None
    assert importance.measure(space, "maml", [made({}, 0.5) for _ in range(20)]) is None


def test_values_that_an_extended_search_allows_no_longer_are_left_out(space: SearchSpace) -> None:
    full = trials(30)
    outside = [made({"inner_lr": 50.0, "inner_steps": 3}, 0.9) for _ in range(5)]
    found = importance.measure(space, "maml", [*full, *outside])
    assert found is not None
    assert found.n_trials == 30


def test_conditional_settings_have_a_share_without_a_warning(space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    found = []
    for trial in trials(60):
        sampled = {**trial.sampled, "multi_step_loss": bool(rng.random() < 0.5)}
        if sampled["multi_step_loss"]:
            sampled["multi_step_fraction"] = float(rng.uniform(0.05, 0.5))
        found.append(made(sampled, trial.score))
    told = importance.measure(space, "maml_pp", found)
    assert told is not None
    assert set(told.shares) == {"inner_lr", "inner_steps", "multi_step_loss", "multi_step_fraction"}
    assert next(iter(told.shares)) == "inner_lr"
