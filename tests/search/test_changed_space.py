"""A space that is changed after it ran: each kind of change goes on, or is refused whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import SearchSpace
from metabench.data.reading.splits import make_splits
from metabench.search import space as spaces
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import FAILED, OUTSIDE, Ledger
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files
from tests.search.conftest import SPACE
from tests.search.test_searcher import run_next

BLOCK: dict[str, Any] = {
    "inner_lr": {"low": 0.1, "high": 0.9, "step": 0.2, "default": 0.5},
    "inner_steps": {"choices": [1, 3, 5], "default": 1},
    "task_batch_size": 4,
}

GOES_ON: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes of the block, and of the budget
    "wider range": ({"inner_lr": {"low": 0.1, "high": 1.9, "step": 0.2, "default": 0.5}}, {}),
    "narrower range": ({"inner_lr": {"low": 0.1, "high": 0.3, "step": 0.2, "default": 0.1}}, {}),
    "other grid": ({"inner_lr": {"low": 0.1, "high": 0.9, "step": 0.4, "default": 0.5}}, {}),
    "grid becomes continuous": ({"inner_lr": {"low": 0.1, "high": 0.9, "default": 0.5}}, {}),
    "choice added": ({"inner_steps": {"choices": [1, 3, 5, 7], "default": 1}}, {}),
    "choice removed": ({"inner_steps": {"choices": [3, 5], "default": 3}}, {}),
    "choices of one left": ({"inner_steps": {"choices": [3], "default": 3}}, {}),
    "other default": ({"inner_steps": {"choices": [1, 3, 5], "default": 5}}, {}),
    "choices to a constant": ({"inner_steps": 3}, {}),
    "range to a constant": ({"inner_lr": 0.5}, {}),
    "all constant": ({"inner_lr": 0.5, "inner_steps": 3}, {}),
    "constant that was never tried": ({"inner_lr": 0.7, "inner_steps": 2}, {}),
    "constant to choices": ({"task_batch_size": {"choices": [2, 4], "default": 2}}, {}),
    "constant to a range": ({"task_batch_size": {"low": 4, "high": 8, "default": 4}}, {}),
    "range to choices": ({"inner_lr": {"choices": [0.1, 0.3], "default": 0.3}}, {}),
    "one more setting": ({"outer_lr": {"choices": [0.001, 0.01], "default": 0.001}}, {}),
    "more trials": ({}, {"trials": 9}),
    "more tasks, fewer choices": ({"inner_steps": {"choices": [3, 5], "default": 3}}, {"tasks": 2700}),
    "other sampler": ({"inner_steps": {"choices": [3, 5], "default": 3}}, {"sampler": "qmc"}),
    "other scheduler": ({}, {"scheduler": "none", "trials": 8}),
    "more candidates": ({}, {"confirm_top": 5}),
}

REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "fewer trials": ({}, {"trials": 3}, "budget.trials: 6 there, 3 given"),
    "fewer tasks": ({}, {"tasks": 300}, "budget.tasks: 900 there, 300 given"),
    "fewer seeds": ({}, {"seeds": 1}, "budget.seeds: 2 there, 1 given"),
    "other validation": ({}, {"validation_tasks": 20}, "allows no other budget.validation_tasks"),
}


def make(block: dict[str, Any], budget: dict[str, Any], **more: Any) -> SearchSpace:
    algorithms = {"fomaml": {**BLOCK, **block}, **more}
    return SearchSpace.model_validate(
        {
            **SPACE,
            "shared": {},
            "budget": {**SPACE["budget"], "trials": 6, **budget},
            "algorithms": algorithms,
        }
    )


def open_ledger(folder: Path, space: SearchSpace) -> Ledger:
    its = {algorithm: spaces.of(space, algorithm) for algorithm in space.algorithms}
    keep, tasks = space.budget.confirm_top, space.budget.tasks
    return Ledger(
        folder, keep, tasks=tasks, place=lambda trial: its[trial.algorithm].where(trial.hyperparameters)
    )


def play(folder: Path, space: SearchSpace, n_trials: int | None = None) -> Ledger:
    searcher = FairSearcher(space, open_ledger(folder, space), seed=0)
    for index in range(searcher.remaining() if n_trials is None else n_trials):
        run_next(searcher, str(index))
    return searcher.ledger


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def splits() -> Splits:
    """Return a data set of black squares."""
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    return make_splits("squares", split, split, split)


@pytest.mark.parametrize("name", GOES_ON)
def test_a_change_goes_on_with_candidates_of_the_present_space_alone(
    tmp_path: Path, splits: Splits, name: str
) -> None:
    before, after = make({}, {}), make(*GOES_ON[name])
    create_or_resume(tmp_path, before, splits, seed=0)
    play(tmp_path, before)
    files.write_json(tmp_path / files.CHOSEN, {"fomaml": "of the old space"})
    space, _ = create_or_resume(tmp_path, after, splits, seed=0, accept=True)
    its = spaces.of(space, "fomaml")
    n_outside = 6 - open_ledger(tmp_path, space).n_tried("fomaml")
    ledger = play(tmp_path, space)
    assert ledger.n_tried("fomaml") == its.n_trials
    assert len(ledger.of("fomaml")) == its.n_trials + n_outside, "an old setting that is left counts"
    candidates = ledger.candidates("fomaml")
    assert candidates
    assert all(its.recognise(trial.hyperparameters) for trial in candidates) or its.n_settings == 1
    assert len({its.where(trial.hyperparameters) for trial in candidates}) == len(candidates)
    assert play(tmp_path, space).history == ledger.history, "nothing is left to do"
    if not name.startswith(("other scheduler", "other default")) or GOES_ON[name][0]:
        assert not (tmp_path / files.CHOSEN).exists()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_go_on_is_refused_and_nothing_is_written(
    tmp_path: Path, splits: Splits, name: str
) -> None:
    block, budget, line = REFUSED[name]
    create_or_resume(tmp_path, make({}, {}), splits, seed=0)
    play(tmp_path, make({}, {}))
    whole = contents(tmp_path)
    with pytest.raises(MetabenchError, match=line):
        create_or_resume(tmp_path, make(block, budget), splits, seed=0, accept=True)
    assert contents(tmp_path) == whole


def test_one_more_algorithm_goes_on_and_one_less_is_refused(tmp_path: Path, splits: Splits) -> None:
    alone, both = make({}, {}), make({}, {}, maml=BLOCK)
    create_or_resume(tmp_path, alone, splits, seed=0)
    play(tmp_path, alone)
    create_or_resume(tmp_path, both, splits, seed=0, accept=True)
    assert len(play(tmp_path, both).of("maml")) == 6
    whole = contents(tmp_path)
    with pytest.raises(MetabenchError, match="algorithms: maml is missing"):
        create_or_resume(tmp_path, alone, splits, seed=0, accept=True)
    assert contents(tmp_path) == whole


def test_a_journal_that_cannot_be_replayed_refuses_the_change_before_it_is_written(
    tmp_path: Path, splits: Splits
) -> None:
    create_or_resume(tmp_path, make({}, {}), splits, seed=0)
    play(tmp_path, make({}, {}))
    files.append_line(tmp_path / "journal.jsonl", {"event": "report", "trial": "of nobody", "report": {}})
    whole = contents(tmp_path)
    with pytest.raises(MetabenchError, match=r"journal|cannot be read"):
        create_or_resume(tmp_path, make({"inner_lr": 0.5}, {}), splits, seed=0, accept=True)
    assert contents(tmp_path) == whole


def test_how_many_trials_are_left_out_is_said(tmp_path: Path, splits: Splits) -> None:
    create_or_resume(tmp_path, make({}, {}), splits, seed=0)
    play(tmp_path, make({}, {}))
    lines: list[str] = []
    create_or_resume(tmp_path, make({"inner_lr": 1.5}, {}), splits, seed=0, accept=True, say=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("fomaml: 6 of 6 trials have settings that the changed space has not")


def test_an_unfinished_trial_of_a_removed_setting_ends_and_is_no_candidate(
    tmp_path: Path, splits: Splits
) -> None:
    before, after = make({}, {}), make({"inner_steps": {"choices": [3, 5], "default": 3}}, {})
    create_or_resume(tmp_path, before, splits, seed=0)
    FairSearcher(before, open_ledger(tmp_path, before), seed=0).suggest(
        "a"
    )  # the published setting: one step
    create_or_resume(tmp_path, after, splits, seed=0, accept=True)
    first = open_ledger(tmp_path, after).of("fomaml")[0]
    assert (first.status, first.error) == (FAILED, OUTSIDE)
    ledger = play(tmp_path, after)
    assert len(ledger.of("fomaml")) == 7
    assert all(trial.hyperparameters["inner_steps"] != 1 for trial in ledger.candidates("fomaml"))
    assert ledger.of("fomaml")[1].is_default, "the new published setting comes first"


def test_the_best_of_a_removed_setting_is_not_trained_on_for_a_larger_budget(
    tmp_path: Path, splits: Splits
) -> None:
    before = make({}, {"tasks": 900})
    after = make({"inner_lr": {"low": 0.7, "high": 0.9, "step": 0.2, "default": 0.7}}, {"tasks": 2700})
    create_or_resume(tmp_path, before, splits, seed=0)
    play(tmp_path, before)
    space, _ = create_or_resume(tmp_path, after, splits, seed=0, accept=True)
    outside = [t for t in play(tmp_path, space).of("fomaml") if t.hyperparameters["inner_lr"] < 0.6]
    assert outside
    assert max(trial.tasks_seen for trial in outside) <= 900
