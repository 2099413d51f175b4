"""A setting is tried once: what was tried is proposed again only where nothing else is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger
from metabench.search.propose.searcher import FINISHED, FairSearcher
from tests.search.conftest import SPACE
from tests.search.test_searcher import run_next

TWO = {"inner_lr": 0.1, "inner_steps": {"choices": [1, 3], "default": 1}}
GRID = {
    "inner_lr": {"low": 0.1, "high": 0.9, "step": 0.1, "default": 0.1},
    "inner_steps": {"low": 1, "high": 3, "default": 1},
}


def finite(block: dict[str, Any], sampler: str = "tpe", **budget: Any) -> SearchSpace:
    budget = {**SPACE["budget"], "sampler": sampler, **budget}
    return SearchSpace.model_validate(
        {**SPACE, "shared": {}, "budget": budget, "algorithms": {"maml": block}}
    )


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc", "cma-es"])
def test_a_space_of_few_settings_is_tried_whole_each_once(tmp_path: Path, sampler: str) -> None:
    space = finite(GRID, sampler, trials=40)
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    assert searcher.remaining() == 27
    for index in range(27):
        run_next(searcher, str(index))
    its = spaces.of(space, "maml")
    assert len({its.place(trial.sampled) for trial in searcher.ledger.of("maml")}) == 27
    assert searcher.remaining() == 0
    assert searcher.suggest("over") == FINISHED
    assert [trial.is_default for trial in searcher.ledger.of("maml")] == [True] + [False] * 26


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "qmc"])
def test_after_a_restart_the_settings_that_are_left_come_in_the_same_order(
    tmp_path: Path, sampler: str
) -> None:
    def play(folder: Path, restart_at: int | None) -> list[Any]:
        space = finite(GRID, sampler, trials=40)
        searcher = FairSearcher(space, Ledger(folder, 2), seed=0)
        for index in range(27):
            if index == restart_at:
                searcher = FairSearcher(space, Ledger(folder, 2), seed=0)
            run_next(searcher, str(index))
        return [trial.sampled for trial in searcher.ledger.of("maml")]

    assert play(tmp_path / "whole", None) == play(tmp_path / "restarted", 20)


def test_where_one_branch_has_one_setting_the_other_gets_the_trials(tmp_path: Path) -> None:
    rate = {"low": 0.05, "high": 0.5, "default": 0.1, "when": {"multi_step_loss": True}}
    block = {"multi_step_loss": {"choices": [False, True], "default": False}, "multi_step_fraction": rate}
    space = finite({}).model_copy(
        update={
            "algorithms": SearchSpace.model_validate({**SPACE, "algorithms": {"maml_pp": block}}).algorithms
        }
    )
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    for index in range(9):
        run_next(searcher, str(index))
    tried = [trial.sampled["multi_step_loss"] for trial in searcher.ledger.of("maml_pp")]
    assert tried == [False] + [True] * 8


def test_a_setting_of_two_trials_is_one_candidate(tmp_path: Path) -> None:
    its = spaces.of(finite(TWO), "maml")

    ledger = Ledger(tmp_path, 2, place=lambda trial: its.where(trial.hyperparameters))
    for number, steps in enumerate((1, 3, 3, 5)):
        sampled = {"inner_steps": steps}
        trial = ledger.propose("maml", sampled, {"inner_lr": 0.1, "inner_steps": steps}, False, 0)
        report = {"tasks_seen": 900, "val_score": number / 10, "seconds": 1.0, "peak_memory": 1}
        ledger.record(trial.name, report, "complete", {})
    assert [trial.name for trial in ledger.candidates("maml")] == ["maml-002", "maml-000"]
    assert ledger.n_tried("maml") == 2
    kept = [trial.name for trial in ledger.of("maml") if trial.checkpoint]
    assert "maml-002" in kept
    assert "maml-003" not in kept, "a setting that the space has not keeps no state"
