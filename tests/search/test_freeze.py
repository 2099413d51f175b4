"""Freeze-thaw: what is trained next, who is named, and that it is the same after any kill."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metabench.core.config import BudgetConfig, SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal import freeze
from metabench.search.journal.ledger import COMPLETE, CONTINUE, JOURNAL, PRUNED, WAIT, WORK, Ledger
from metabench.search.journal.rule import decide
from metabench.search.progress import summary
from metabench.search.propose import points
from metabench.search.propose.searcher import FairSearcher
from metabench.search.space import AlgorithmSpace
from metabench.storage import files
from tests.search import laws, proposals
from tests.search.played import make_report

NAME = "maml_pp"


def space_of(**budget: Any) -> SearchSpace:
    return proposals.space_of(**{"scheduler": "freeze_thaw", "sampler": "random", "trials": 8, **budget})


def score_at(values: dict[str, Any], seen: int) -> float | None:
    """Return a made-up accuracy; settings with one inner step are ahead at first and fall behind."""
    if values["inner_lr"] > 0.8:
        return None
    return proposals.score(values) * (1 - 20 / seen) + 0.05 * (values["inner_steps"] == 1) * (100 / seen)


def gained(ledger: Ledger, its: AlgorithmSpace, budget: BudgetConfig) -> float | None:
    belief = freeze.believe(ledger, its, budget)
    assert belief is not None
    return freeze.hourly_gain(belief, ledger, its, budget, points.spread(its, 0))


def search(folder: Path, space: SearchSpace, workers: int = 1, seconds: float = 1.0) -> FairSearcher:
    """Search with so many workers, whose legs take equal time, from whatever the journal holds."""
    searcher = FairSearcher(space, Ledger(folder, keep=2), seed=3)
    running: dict[str, str] = {}
    for count in range(1000):
        while len(running) < workers and isinstance(
            config := searcher.suggest(f"{count}-{len(running)}"), dict
        ):
            running[f"{count}-{len(running)}"] = config["trial"]
        if not running:
            searcher.finish()
            return searcher
        trial_id, name = next(iter(running.items()))
        trial = searcher.ledger.trials[name]
        rung = next(rung for rung in searcher.rungs if rung > trial.tasks_seen)
        report = make_report(rung, score_at(trial.hyperparameters, rung), seconds * rung)
        decision = decide(searcher.ledger, space.budget, name, report)
        if decision != CONTINUE and not (decision == WAIT and searcher.goes_on(name)):
            searcher.hand_back(trial_id)
            del running[trial_id]
    raise AssertionError("it never ends")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_search_spends_what_it_may_and_trains_who_is_named_to_the_end(tmp_path: Path, workers: int) -> None:
    searcher = search(tmp_path, space := space_of(), workers)
    trials = searcher.ledger.of(NAME)
    assert trials[0].is_default
    allowance = freeze.allowance(space.budget, 8)
    assert allowance == 8 * 100 + 8 / 3 * 200 + 600
    assert allowance - 300 < searcher.ledger.tasks(NAME) <= allowance + (workers > 1) * 900
    named = freeze.incumbent(searcher.ledger, spaces.of(space, NAME), space.budget)
    assert named is not None
    assert named.status == COMPLETE
    assert {trial.status for trial in trials} <= {COMPLETE, PRUNED, "diverged"}
    assert not searcher.remaining()


def test_the_first_settings_are_the_samplers(tmp_path: Path) -> None:
    trials = {
        scheduler: search(tmp_path / scheduler, space_of(trials=20, scheduler=scheduler)).ledger.of(NAME)
        for scheduler in ("freeze_thaw", "none")
    }
    same = [a.sampled == b.sampled for a, b in zip(*trials.values(), strict=False)]
    assert same[: freeze.BLINDLY] == [True] * freeze.BLINDLY
    assert not any(same[freeze.BLINDLY :])


def test_one_huge_error_does_not_hide_the_others(tmp_path: Path) -> None:
    space = space_of()
    its, scales = spaces.of(space, NAME), []
    for worst in (-6.0, -1e9):
        ledger = Ledger(tmp_path / str(worst), keep=2, objective=OBJECTIVES["regression"])
        for number, sampled in enumerate(points.spread(its, 0)[:9]):
            name = ledger.propose(NAME, sampled, its.resolve(sampled), False, 0).name
            decide(ledger, space.budget, name, make_report(100, -1.0 - number / 4 if number else worst))
        belief = freeze.believe(ledger, its, space.budget)
        assert belief is not None
        assert freeze.leader(belief).number == 1
        scales.append(belief.scale)
    assert scales[1] == pytest.approx(scales[0], rel=0.2)


def test_a_late_bloomer_comes_back_and_settings_get_better_as_more_is_known(tmp_path: Path) -> None:
    searcher = search(tmp_path, space := space_of(trials=20))
    trials = searcher.ledger.of(NAME)
    named = freeze.incumbent(searcher.ledger, spaces.of(space, NAME), space.budget)
    assert named is not None
    assert proposals.score(named.hyperparameters) > 0.8  # of 0.9, and 0.46 for the published setting
    halves = [[proposals.score(t.hyperparameters) for t in half] for half in (trials[:9], trials[9:])]
    assert np.mean(halves[1]) > np.mean(halves[0]) + 0.1
    assert len([t for t in trials if len(t.reports) > 1]) < len(trials) / 2, (
        "most are seen to be worse at once"
    )


@pytest.mark.parametrize(("workers", "every"), [(1, 4), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_changes_nothing(tmp_path: Path, workers: int, every: int) -> None:
    space = space_of(trials=5)
    search(tmp_path / "whole", space)
    journal = files.read_lines(tmp_path / "whole" / JOURNAL)
    assert Counter(event["event"] for event in journal)["resumed"] > 1
    for kept in range(1, len(journal), every):
        files.write_lines(tmp_path / str(kept) / JOURNAL, journal[:kept])
        search(tmp_path / str(kept), space)
        assert files.read_lines(tmp_path / str(kept) / JOURNAL) == journal


@pytest.mark.parametrize("scheduler", ["freeze_thaw", "asha"])
def test_every_event_is_repeated_from_the_journal_before_it(tmp_path: Path, scheduler: str) -> None:
    space = space_of(trials=5, scheduler=scheduler, pause=True)
    search(tmp_path, space)
    files.write_json(tmp_path / files.SEARCH, {"space": space.model_dump(mode="json"), "seed": 3})
    counts = Counter(event["event"] for event in files.read_lines(tmp_path / JOURNAL))
    assert counts["proposed"] > 1
    assert counts["resumed"] > 0
    assert counts["settled"] > 0
    assert list(laws.decided_again(tmp_path)) == []


def test_workers_try_different_settings_at_once(tmp_path: Path) -> None:
    searcher = FairSearcher(space_of(), Ledger(tmp_path, keep=2), seed=3)
    first = searcher.suggest("0")
    decide(searcher.ledger, searcher.space.budget, first["trial"], make_report(100, 0.5))
    searcher.hand_back("0")
    handed = [searcher.suggest(str(number)) for number in range(1, 5)]
    assert len({config["trial"] for config in handed}) == 4
    rates = sorted(math.log(config["hyperparameters"]["inner_lr"]) for config in handed)
    assert max(np.diff(rates)) > 0.5, "they are spread"


def test_who_runs_counts_as_having_scored_what_is_expected(tmp_path: Path) -> None:
    space = space_of()
    its, ledger = spaces.of(space, NAME), Ledger(tmp_path, keep=2)
    settings = points.spread(its, 0)[:3]
    for number, sampled in enumerate(settings[:2]):
        ledger.propose(NAME, sampled, its.resolve(sampled), False, 0)
        decide(ledger, space.budget, f"{NAME}-{number:03d}", make_report(100, 0.4 + number / 10))
    alone = freeze.believe(ledger, its, space.budget)
    ledger.propose(NAME, settings[2], its.resolve(settings[2]), False, 0)
    belief = freeze.believe(ledger, its, space.budget)
    assert alone is not None
    assert belief is not None
    assert (len(belief.row), len(belief.trials)) == (3, 3)
    legs = freeze.legs(belief, its, space.budget, settings[2:])
    assert [leg.trial and leg.trial.name for leg in legs] == [f"{NAME}-000", f"{NAME}-001"], (
        "one runs already"
    )

    def gain_of_a_first_leg(belief: freeze.Belief) -> float:
        alike = freeze.gaussian.similarity(belief.x, freeze.coordinates(its, settings[2:]), belief.floors)
        leg = freeze.Leg(None, settings[2], 0, 100, 100.0, alike[:, 0])
        return float(freeze.gains(belief, space.budget, [leg])[0])

    assert alone.mean.tolist() == pytest.approx(belief.mean[:2].tolist())
    assert gain_of_a_first_leg(belief) < 0.8 * gain_of_a_first_leg(alone), "less is to be learnt there"


def test_a_setting_that_is_inactive_stands_at_its_default() -> None:
    its = spaces.of(space_of(), NAME)
    base = {"inner_lr": 0.1, "inner_steps": 1, "multi_step_loss": False}
    default = {**base, "multi_step_loss": True, "multi_step_fraction": 0.1}
    x = freeze.coordinates(its, [base, default, {**default, "multi_step_fraction": 0.3}])
    names = list(its.sampled)
    apart = (x[1] != x[0]) | False
    assert [name for name, differs in zip(names, apart, strict=True) if differs] == ["multi_step_loss"]
    assert (x[2] - x[1])[names.index("multi_step_fraction")] == pytest.approx(0.2 / (0.4 * 0.45))
    floors = dict(zip(names, freeze.floors(its).tolist(), strict=True))
    assert floors == {"inner_lr": 0.0, "inner_steps": 0.8, "multi_step_loss": 0.8, "multi_step_fraction": 0.0}


def test_points_fill_the_space_and_hold_its_conditions() -> None:
    its = spaces.of(space_of(), NAME)
    spread = points.spread(its, 7)
    assert all(its.recognise(its.resolve(one)) == one for one in [*spread, *points.around(its, spread[0])])
    counts = Counter(one["inner_steps"] for one in spread)
    assert counts.keys() == {1, 2, 3, 4, 5}
    assert max(counts.values()) - min(counts.values()) <= 4
    below = sum(one["inner_lr"] < 0.1 for one in spread)  # half of the logarithms
    assert below == pytest.approx(len(spread) / 2, abs=1)
    assert all(("multi_step_fraction" in one) == one["multi_step_loss"] for one in spread)
    assert points.spread(its, 7) == spread
    assert points.spread(its, 8) != spread


def test_seconds_are_spent_and_not_overspent(tmp_path: Path) -> None:
    timed = {"unit": "seconds", "seconds": 40.0, "trials": 1000}
    searcher = search(tmp_path, space_of(**timed), seconds=0.01)
    assert 33 <= searcher.ledger.seconds(NAME) <= 43
    assert any(trial.status == COMPLETE for trial in searcher.ledger.of(NAME))


def test_the_leaders_way_to_the_full_budget_is_kept_for_it(tmp_path: Path) -> None:
    timed = {"unit": "seconds", "seconds": 11.0, "trials": 1000}  # one full run takes 9 of them
    ledger = search(tmp_path, space_of(**timed), seconds=0.01).ledger
    assert len(ledger.of(NAME)) <= 3
    assert ledger.seconds(NAME) <= 11
    assert any(trial.status == COMPLETE for trial in ledger.of(NAME))


def test_with_many_trials_the_model_learns_from_a_bounded_number_of_scores(tmp_path: Path) -> None:
    space = space_of(trials=1000)
    its, ledger = spaces.of(space, NAME), Ledger(tmp_path, keep=2)
    settings = [one for seed in range(2) for one in points.spread(its, seed)]
    for number, sampled in enumerate(settings):
        trial = ledger.propose(NAME, sampled, its.resolve(sampled), False, 0)
        for rung in (100, 300) if number % 3 == 0 else (100,):
            if rung == 300:
                ledger.settle(trial.name, CONTINUE, {"rung": 0})
            decide(
                ledger, space.budget, trial.name, make_report(rung, proposals.score(trial.hyperparameters))
            )
    belief = freeze.believe(ledger, its, space.budget)
    assert belief is not None
    assert len(belief.row) == freeze.MOST_POINTS
    best = max(proposals.score(trial.hyperparameters) for trial in belief.trials)
    assert proposals.score(freeze.leader(belief).hyperparameters) > best - 0.05


def test_a_search_stops_when_too_little_is_expected(tmp_path: Path) -> None:
    space = space_of(trials=40)
    its, tasks, gains = spaces.of(space, NAME), [], []
    for points_an_hour in (None, 30.0, 60.0):
        budget = space.budget.model_copy(update={"stop_when": points_an_hour})
        searcher = search(tmp_path / str(points_an_hour), space.model_copy(update={"budget": budget}))
        tasks.append(searcher.ledger.tasks(NAME))
        assert any(trial.status == COMPLETE for trial in searcher.ledger.of(NAME))
        gain = gained(searcher.ledger, its, budget)
        assert gain is not None
        gains.append(100 * gain)
    assert tasks[0] > tasks[1] >= tasks[2]
    assert gains[0] < 60


def test_an_algorithm_that_leaves_nothing_to_choose_is_trained_once(tmp_path: Path) -> None:
    space = space_of()
    fixed: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 1, "multi_step_loss": False}
    space = space.model_copy(update={"shared": {}, "algorithms": {NAME: fixed}})
    searcher = search(tmp_path, space)
    assert [trial.status for trial in searcher.ledger.of(NAME)] == [COMPLETE]
    its = spaces.of(space, NAME)
    assert gained(searcher.ledger, its, space.budget) == 0


def test_many_that_diverged_leave_room_for_who_did_not(tmp_path: Path) -> None:
    space = space_of(trials=1000)
    its, ledger = spaces.of(space, NAME), Ledger(tmp_path, keep=2)
    for number, sampled in enumerate(points.spread(its, 0)):
        name = ledger.propose(NAME, sampled, its.resolve(sampled), False, 0).name
        decide(
            ledger, space.budget, name, make_report(100 if number == 9 else 150, 0.5 if number == 9 else None)
        )
    named = freeze.incumbent(ledger, its, space.budget)
    assert named is not None
    assert named.number == 9


def test_what_is_settled_forgets_no_noise(tmp_path: Path) -> None:
    space, rng = space_of(), np.random.default_rng(0)
    searcher = FairSearcher(space, Ledger(tmp_path, keep=2), seed=3)
    for count in range(6):
        config = searcher.suggest(str(count))
        assert isinstance(config, dict)
        rung = next(one for one in searcher.rungs if one > searcher.ledger.trials[config["trial"]].tasks_seen)
        scores = (0.5 + 0.1 * rng.standard_normal(20)).tolist()
        report = make_report(rung, float(np.mean(scores)), 1.0, scores)
        files.append_line(tmp_path / WORK / config["trial"] / files.REPORTS, report)
        decide(searcher.ledger, space.budget, config["trial"], report)
        searcher.hand_back(str(count))
    its = spaces.of(space, NAME)
    before = freeze.believe(searcher.ledger, its, space.budget)
    searcher.finish()
    after = freeze.believe(searcher.ledger, its, space.budget)
    assert before is not None
    assert after is not None
    assert after.noise == pytest.approx(before.noise)
    assert before.noise > 100 * freeze.LEAST_NOISE


def test_the_model_is_fitted_once_between_two_events_and_not_to_show_who_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, fits = space_of(trials=20), []
    fit = freeze.gaussian.fit
    monkeypatch.setattr(freeze.gaussian, "fit", lambda *args: fits.append(1) or fit(*args))
    searcher = FairSearcher(space, ledger := Ledger(tmp_path, keep=2), seed=3)
    n_choices = 0
    for count in range(12):
        config = searcher.suggest(str(count))  # what `goes_on` found better is handed out without a fit
        assert isinstance(config, dict)
        trial, goes_on = ledger.trials[config["trial"]], True
        while goes_on:
            rung = next(one for one in searcher.rungs if one > trial.tasks_seen)
            report = make_report(rung, score_at(trial.hyperparameters, rung))
            decide(ledger, space.budget, trial.name, report)
            goes_on = searcher.goes_on(trial.name)
            n_choices += 1
            summary.leaders(space, ledger)
        searcher.hand_back(str(count))
    assert 12 <= len(fits) <= n_choices
    before = len(fits)
    for _ in range(3):
        summary.leaders(space, ledger)
    assert len(fits) == before
