"""A search that goes on under other conditions: refused with the difference shown, or recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import SPENT, SearchSpace
from metabench.data.reading.splits import make_splits
from metabench.search import space as spaces
from metabench.search.folder import changes, create_or_resume
from metabench.search.journal.ledger import Ledger
from metabench.search.journal.rule import decide
from metabench.search.propose.searcher import FairSearcher
from metabench.storage import files, records
from tests.search.played import make_report


@pytest.fixture
def splits() -> Splits:
    """Return a data set of black squares."""
    split = Split(torch.zeros(6, 30, 1, 28, 28, dtype=torch.uint8), tuple("abcdef"), ("x",) * 6)
    return make_splits("squares", split, split, split)


def larger(space: SearchSpace, **budget: Any) -> SearchSpace:
    return space.model_copy(update={"budget": space.budget.model_copy(update=budget)})


def finish(folder: Path) -> None:
    """Leave what the last stages would leave."""
    for name in (files.CHOSEN, files.META_TEST, f"{files.LEADERBOARD}.json", f"{files.CONFIRM}/a.json"):
        files.write_json(folder / name, {"name": name})


def test_a_changed_budget_is_refused_with_the_difference_and_accepted_when_told(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    finish(tmp_path)
    more = larger(space, trials=12)
    with pytest.raises(MetabenchError, match=r"accept_changes[\s\S]*budget.trials: 9 there, 12 given"):
        create_or_resume(tmp_path, more, splits, seed=0)
    assert create_or_resume(tmp_path, more, splits, seed=0, accept=True) == (more, True)
    record = files.read_json(tmp_path / files.SEARCH)
    assert [change["changed"] for change in record["changes"]] == [{"budget.trials": [9, 12]}]
    for name in (files.CHOSEN, files.META_TEST, f"{files.LEADERBOARD}.json", f"{files.CONFIRM}/a.json"):
        assert not (tmp_path / name).exists()
        assert files.read_json(tmp_path / files.EARLIER / "1" / name) == {"name": name}
    assert create_or_resume(tmp_path, more, splits, seed=0) == (
        more,
        True,
    )  # from now on it is the same search
    assert changes.earlier(tmp_path) == "earlier/1"


def test_a_search_keeps_its_rule_where_a_space_does_not_say(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    document = space.model_dump(mode="json", exclude_unset=True)
    document["budget"].pop("pause", None)  # which only one rule has
    space = SearchSpace.model_validate(document)
    assert document["budget"].pop("scheduler") == "asha"
    unsaid = SearchSpace.model_validate(document)
    assert unsaid.budget.scheduler == "freeze_thaw"
    create_or_resume(tmp_path, space, splits, seed=0)
    assert create_or_resume(tmp_path, unsaid, splits, seed=0) == (space, True)
    assert create_or_resume(tmp_path, spaces.override(unsaid, trials=9), splits, seed=0) == (space, True)
    with pytest.raises(MetabenchError, match=r"budget.scheduler: 'asha' there, 'freeze_thaw' given"):
        create_or_resume(tmp_path, spaces.override(unsaid, scheduler="freeze_thaw"), splits, seed=0)
    record = files.read_json(tmp_path / files.SEARCH)  # of a version that had no other rule
    del record["space"]["budget"]["scheduler"]
    files.write_json(tmp_path / files.SEARCH, record)
    assert create_or_resume(tmp_path, unsaid, splits, seed=0) == (space, True)


def test_more_seeds_leave_the_choice_as_it_is(tmp_path: Path, space: SearchSpace, splits: Splits) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    finish(tmp_path)
    create_or_resume(tmp_path, larger(space, seeds=5), splits, seed=0, accept=True)
    assert (tmp_path / files.CHOSEN).exists()
    assert (tmp_path / files.CONFIRM / "a.json").exists()
    assert not (tmp_path / files.META_TEST).exists()


def test_another_version_is_refused_until_it_is_accepted(
    tmp_path: Path, space: SearchSpace, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    finish(tmp_path)
    monkeypatch.setattr(files, "code_hash", lambda: "of other sources")
    with pytest.raises(MetabenchError, match=r"code: '\w+' there, 'of other sources' given"):
        create_or_resume(tmp_path, space, splits, seed=0)
    create_or_resume(tmp_path, space, splits, seed=0, accept=True)
    assert (tmp_path / files.META_TEST).exists()
    assert list(files.read_json(tmp_path / files.SEARCH)["changes"][0]["changed"]) == ["code"]


def test_what_makes_numbers_incomparable_is_refused_whatever_is_told(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    for offered in (splits._replace(fingerprint="other"), splits):
        task = space.task.model_copy(update={"shot": 5})
        other = space if offered is not splits else space.model_copy(update={"task": task})
        with pytest.raises(MetabenchError, match=r"allows no other (data_fingerprint|task.shot)"):
            create_or_resume(tmp_path, other, offered, seed=0, accept=True)
    for changed in ({"validation_tasks": 20}, {"borderline_tasks": 20}):
        with pytest.raises(MetabenchError, match=f"allows no other budget.{next(iter(changed))}"):
            create_or_resume(tmp_path, larger(space, **changed), splits, seed=0, accept=True)


def test_a_search_is_not_shortened(tmp_path: Path, space: SearchSpace, splits: Splits) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    fewer = larger(space, trials=5, seeds=1)
    fewer = fewer.model_copy(update={"algorithms": {"maml": space.algorithms["maml"]}})
    with pytest.raises(MetabenchError) as caught:
        create_or_resume(tmp_path, fewer, splits, seed=0, accept=True)
    for line in ("budget.trials: 9 there, 5 given", "budget.seeds: 2 there, 1 given", "maml_pp is missing"):
        assert line in str(caught.value)


@pytest.mark.parametrize("unit", SPENT)
def test_what_is_spent_is_not_shortened_either(
    tmp_path: Path, space: SearchSpace, splits: Splits, unit: str
) -> None:
    create_or_resume(tmp_path, larger(space, unit=unit, **{unit: 900}), splits, seed=0)
    with pytest.raises(MetabenchError, match=rf"budget.{unit}: 900\S* there, 100\S* given"):
        create_or_resume(tmp_path, larger(space, unit=unit, **{unit: 100}), splits, seed=0, accept=True)
    create_or_resume(tmp_path, larger(space, unit=unit, **{unit: 1000}), splits, seed=0, accept=True)


def test_more_tasks_keep_the_rungs_and_add_those_that_follow(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    longer = spaces.override(space, tasks=4000)
    resumed, _ = create_or_resume(tmp_path, longer, splits, seed=0, accept=True)
    assert spaces.rungs(space.budget) == [100, 300, 900]
    assert spaces.rungs(resumed.budget) == [100, 300, 900, 2700, 4000]
    again, _ = create_or_resume(tmp_path, longer, splits, seed=0)
    assert again == resumed


def play(folder: Path, space: SearchSpace, tasks_left: int = 10**9) -> list[str]:
    """Run what is left of a search, better settings having better scores, and name what was handed out."""
    ledger = Ledger(folder, 2, tasks=space.budget.tasks)
    searcher = FairSearcher(space, ledger, seed=0)
    handed = []
    for number in range(searcher.remaining()):
        config = searcher.suggest(str(number))
        assert isinstance(config, dict)
        handed.append(config["trial"])
        state = folder / "trials" / config["trial"] / files.STATE
        state.mkdir(parents=True, exist_ok=True)
        for rung in spaces.rungs(space.budget):
            score = 1 - abs(config["hyperparameters"]["inner_lr"] - 0.3) - 1 / rung
            if decide(ledger, space.budget, config["trial"], make_report(rung, score)) != "continue":
                break
        searcher.hand_back(str(number))
    return handed


def test_an_extended_search_lets_its_best_go_on_and_runs_nothing_twice(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    create_or_resume(tmp_path, space, splits, seed=0)
    assert len(play(tmp_path, space)) == 18
    before = files.read_lines(tmp_path / "journal.jsonl")
    complete = {name for name, line in records.trials(tmp_path).items() if line["status"] == "complete"}
    kept = {name for name in complete if (tmp_path / "trials" / name / files.STATE).exists()}
    longer, _ = create_or_resume(
        tmp_path, spaces.override(space, tasks=2700, trials=11), splits, seed=0, accept=True
    )
    handed = play(tmp_path, longer)
    assert set(handed[: len(kept)]) == kept  # those that got furthest go first
    assert len(handed) == len(kept) + 4  # and two new ones an algorithm
    journal = files.read_lines(tmp_path / "journal.jsonl")
    assert journal[: len(before)] == before
    judged = [(e["trial"], e["report"]["tasks_seen"]) for e in journal if e["event"] == "report"]
    assert len(judged) == len(set(judged))
    ended = Ledger(tmp_path, 2, tasks=2700).trials
    assert {trial.status for trial in ended.values()} <= {"complete", "pruned"}
    assert max(trial.tasks_seen for trial in ended.values()) == 2700
    assert play(tmp_path, longer) == []


def test_one_more_algorithm_gets_the_same_number_of_trials(
    tmp_path: Path, space: SearchSpace, splits: Splits
) -> None:
    only = space.model_copy(update={"algorithms": {"maml": space.algorithms["maml"]}})
    create_or_resume(tmp_path, only, splits, seed=0)
    first = play(tmp_path, only)
    resumed, _ = create_or_resume(tmp_path, space, splits, seed=0, accept=True)
    second = play(tmp_path, resumed)
    assert first == [f"maml-{number:03d}" for number in range(9)]
    assert second == [f"maml_pp-{number:03d}" for number in range(9)]
