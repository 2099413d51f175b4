"""What is tried next, and what the studies are told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import Ledger
from metabench.search.journal.rule import decide
from metabench.search.propose.searcher import FINISHED, FairSearcher
from tests.search.played import make_error_report, make_report


def score(config: dict[str, Any], tasks_seen: int) -> float:
    """Return a made-up accuracy with its best inner rate at 0.3."""
    return round(0.9 - (config["hyperparameters"]["inner_lr"] - 0.3) ** 2 - 10 / tasks_seen, 6)


def run_next(searcher: FairSearcher, trial_id: str) -> str:
    """Take a trial from its last report to its end."""
    config = searcher.suggest(trial_id)
    assert isinstance(config, dict)
    for rung in searcher.rungs:
        decision = decide(
            searcher.ledger, searcher.space.budget, config["trial"], make_report(rung, score(config, rung))
        )
        if decision != "continue":
            break
    searcher.hand_back(trial_id)
    return str(config["trial"])


def test_the_first_setting_of_every_algorithm_is_the_published_one(
    tmp_path: Path, space: SearchSpace
) -> None:
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    for trial_id in ("x", "y"):
        config = searcher.suggest(trial_id)
        algorithm = config["algorithm"]
        its = spaces.of(space, algorithm)
        assert config["hyperparameters"] == its.resolve(its.published[0])
        assert config["trial"] == f"{algorithm}-000"
        assert searcher.ledger.trials[config["trial"]].is_default


def test_a_setting_is_only_sampled_where_its_condition_holds(tmp_path: Path, space: SearchSpace) -> None:
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    for index in range(18):
        run_next(searcher, str(index))
    sampled = [trial.sampled for trial in searcher.ledger.of("maml_pp")]
    assert {values["multi_step_loss"] for values in sampled} == {True, False}
    assert all(("multi_step_fraction" in values) == values["multi_step_loss"] for values in sampled)


def test_the_algorithm_that_has_spent_least_goes_next(tmp_path: Path, space: SearchSpace) -> None:
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert [first["algorithm"], second["algorithm"]] == ["maml", "maml_pp"]  # nobody has spent anything yet
    for rung in (100, 300):
        decide(searcher.ledger, space.budget, first["trial"], make_report(rung, 0.5))
    assert [searcher.suggest(i)["algorithm"] for i in "cdefgh"] == [
        "maml_pp"
    ] * 6  # 100 each, the other on its way to 900


def test_every_algorithm_gets_its_number_of_trials_and_no_more(tmp_path: Path, space: SearchSpace) -> None:
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    assert searcher.remaining() == 18
    names = [run_next(searcher, str(index)) for index in range(18)]
    assert Counter(name.rsplit("-", 1)[0] for name in names) == {"maml": 9, "maml_pp": 9}
    assert len(set(names)) == 18
    assert searcher.suggest("one more") == FINISHED


def test_the_study_is_told_complete_pruned_and_failed_as_what_they_are(
    tmp_path: Path, space: SearchSpace
) -> None:
    only = space.model_copy(update={"algorithms": {"maml": {}}})
    searcher = FairSearcher(only, Ledger(tmp_path, 2), seed=0)
    names = [searcher.suggest(trial_id)["trial"] for trial_id in "abcde"]

    def report(name: str, tasks_seen: int, accuracy: float | None) -> None:
        decide(searcher.ledger, only.budget, name, make_report(tasks_seen, accuracy))

    for rung, accuracy in ((100, 0.5), (300, 0.6), (900, 0.7)):
        report(names[0], rung, accuracy)
    report(names[1], 100, 0.4)
    report(names[2], 100, None)
    searcher.hand_back("a")
    searcher.hand_back("b")
    searcher.hand_back("c")
    searcher.hand_back("d")
    searcher.ledger.fail(names[3], "broken")  # Tune tells the searcher first
    searcher.catch_up()
    complete, pruned, diverged, failed, running = searcher.studies["maml"].study.trials
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.7)
    assert complete.intermediate_values == {100: 0.5, 300: 0.6, 900: 0.7}
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {100: 0.4})
    assert (diverged.state, failed.state) == (TrialState.FAIL, TrialState.FAIL)
    assert running.state == TrialState.RUNNING


def test_the_study_of_a_regression_finds_the_lowest_error_best(tmp_path: Path, space: SearchSpace) -> None:
    only = space.model_copy(update={"algorithms": {"maml": {}}})
    searcher = FairSearcher(only, Ledger(tmp_path, 2), seed=0)
    for trial_id, error in (("a", 3.0), ("b", 0.5), ("c", 2.0)):
        name = searcher.suggest(trial_id)["trial"]
        for rung in (100, 300, 900):
            searcher.ledger.record(
                name, make_error_report(rung, error), "complete" if rung == 900 else "continue", {}
            )
        searcher.hand_back(trial_id)
    study = searcher.studies["maml"].study
    assert (study.best_trial.number, study.best_value) == (1, -0.5)
    assert study.best_trial.intermediate_values == {100: -0.5, 300: -0.5, 900: -0.5}


@pytest.mark.parametrize("stop", [1, 5, 17])
def test_after_a_restart_the_proposals_are_the_same_as_without(
    tmp_path: Path, space: SearchSpace, stop: int
) -> None:
    def play(folder: Path, restart_at: int | None) -> dict[str, Any]:
        searcher = FairSearcher(space, Ledger(folder, 2), seed=3)
        for index in range(18):
            if index == restart_at:
                searcher = FairSearcher(space, Ledger(folder, 2), seed=3)
            run_next(searcher, str(index))
        return {trial.name: trial.sampled for trial in searcher.ledger.trials.values()}

    whole = play(tmp_path / "whole", None)
    assert play(tmp_path / "restarted", stop) == whole
    assert len({values["inner_lr"] for values in whole.values()}) > 15  # a restart repeats no random number


@pytest.mark.parametrize("n_trials", [1, 4, 7])
def test_in_rounds_the_proposals_are_the_same_as_without(
    tmp_path: Path, space: SearchSpace, n_trials: int
) -> None:
    whole = FairSearcher(space, Ledger(tmp_path / "whole", 2), seed=3)
    rounds = FairSearcher(space, Ledger(tmp_path / "rounds", 2), seed=3)
    for index in range(18):
        run_next(whole, str(index))
        if index % n_trials == 0:
            rounds.start_round(n_trials)
        run_next(rounds, str(index))
        if index % n_trials == n_trials - 1:
            assert rounds.suggest("one more") == FINISHED
    proposed = [[trial.sampled for trial in one.ledger.trials.values()] for one in (whole, rounds)]
    assert proposed[0] == proposed[1]


def test_a_round_begins_with_what_the_last_one_left_unfinished(tmp_path: Path, space: SearchSpace) -> None:
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    searcher.start_round(2)
    names = [searcher.suggest(trial_id)["trial"] for trial_id in "ab"]
    decide(searcher.ledger, space.budget, names[0], make_report(100, None))  # diverges
    searcher.hand_back("a")
    searcher.hand_back("b")  # its worker died
    assert (searcher.suggest("c"), searcher.left) == (FINISHED, 0)
    searcher.start_round(2)
    assert searcher.suggest("d")["trial"] == names[1]


def test_another_seed_proposes_other_settings(tmp_path: Path, space: SearchSpace) -> None:
    def second(folder: Path, seed: int) -> Any:
        searcher = FairSearcher(space, Ledger(folder, 2), seed)
        for index in range(4):
            run_next(searcher, str(index))
        return [trial.sampled for trial in searcher.ledger.of("maml")][1]

    assert second(tmp_path / "a", 0) != second(tmp_path / "b", 1)


def test_unfinished_trials_are_handed_out_again_before_new_ones(tmp_path: Path, space: SearchSpace) -> None:
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    configs = [searcher.suggest(trial_id) for trial_id in "abcd"]
    decide(searcher.ledger, space.budget, configs[1]["trial"], make_report(100, 0.5))  # got furthest
    decide(searcher.ledger, space.budget, configs[0]["trial"], make_report(900, 0.5))  # has ended
    again = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    assert again.remaining() == 17
    assert again.suggest("a") == configs[1]
    again.suggest("b")
    assert again.suggest("c")["trial"] in {config["trial"] for config in configs[2:]}
    assert again.suggest("d")["trial"] not in {config["trial"] for config in configs}


def test_the_sampler_learns_from_what_it_is_told(tmp_path: Path, space: SearchSpace) -> None:
    budget = space.budget.model_copy(update={"trials": 40})
    wide = space.model_copy(update={"budget": budget, "algorithms": {"maml": {}}})
    searcher = FairSearcher(wide, Ledger(tmp_path, 2), seed=0)
    for index in range(40):
        run_next(searcher, str(index))
    rates = [trial.sampled["inner_lr"] for trial in searcher.ledger.of("maml")]
    early, late = rates[1:11], rates[-10:]

    def miss(values: list[float]) -> float:
        return sum(abs(value - 0.3) for value in values) / len(values)

    assert miss(late) < miss(early) / 2


def test_an_algorithm_with_nothing_to_choose_is_tried_once(tmp_path: Path, space: SearchSpace) -> None:
    fixed = {**space.algorithms, "scratch": {"inner_lr": 0.1, "inner_steps": 5}}
    space = space.model_copy(update={"algorithms": fixed})
    searcher = FairSearcher(space, Ledger(tmp_path, 2), seed=0)
    n_others = space.budget.trials * (len(fixed) - 1)
    assert searcher.remaining() == n_others + 1
    tried = Counter(searcher.suggest(str(index))["algorithm"] for index in range(n_others + 1))
    assert tried["scratch"] == 1
    assert searcher.suggest("over") is None  # the worker of one that runs may die
    for index, name in enumerate(dict(searcher.handed).values()):
        searcher.ledger.fail(name, "broken")
        searcher.hand_back(str(index))
    assert searcher.suggest("over") == FINISHED
