"""That every algorithm gets the same: trials where tasks are the unit, else seconds to within one rung."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from metabench.core.config import SearchSpace
from metabench.core.control import ENVIRONMENT_STEPS
from metabench.search.journal.ledger import COMPLETE, CONTINUE, PRUNED, Ledger
from metabench.search.journal.rule import decide
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FINISHED, FairSearcher
from metabench.storage import models, records
from tests.search.conftest import SPACE
from tests.search.played import make_report

PACE = {"maml": 0.01, "maml_pp": 0.04, "fomaml": 0.025}
"""Seconds a task of meta-training."""

STEPS, STEPS_A_SECOND = "environment_steps", 1024


def space_of(**budget: Any) -> SearchSpace:
    algorithms = {**SPACE["algorithms"], "fomaml": {}}
    return SearchSpace.model_validate(
        {**SPACE, "budget": {**SPACE["budget"], "sampler": "random", **budget}, "algorithms": algorithms}
    )


def play(folder: Path, space: SearchSpace, slots: int, restart_every: int = 0) -> FairSearcher:
    """Run a search whose trials report in a random order, as many at once as there are slots."""
    rng = random.Random(1)
    searcher = FairSearcher(space, Ledger(folder, keep=2), seed=0)
    running: dict[str, tuple[str, float]] = {}  # Tune's id -> trial and its seconds
    step, finished = 0, False
    unit, rate = ("seconds", 1) if space.budget.unit != STEPS else (STEPS, STEPS_A_SECOND)
    while running or not finished:
        step += 1
        while len(running) < slots and not finished:
            config = searcher.suggest(f"id-{step}-{len(running)}")
            if config is None:
                assert running  # or nobody would ever come back for more
                break
            finished = config == FINISHED
            if isinstance(config, dict):
                seconds = models.spent(searcher.ledger.trials[config["trial"]].reports, unit) / rate
                running[f"id-{step}-{len(running)}"] = (config["trial"], seconds)
        if not running:
            continue
        trial_id = rng.choice(sorted(running))
        name, seconds = running[trial_id]
        trial = searcher.ledger.trials[name]
        rung = next(rung for rung in searcher.rungs if rung > trial.tasks_seen)
        seconds += PACE[trial.algorithm] * (rung - trial.tasks_seen)
        running[trial_id] = (name, seconds)
        report = make_report(rung, rng.random(), seconds)
        if unit == STEPS:  # so many; and seconds, which are then nobody's budget
            report |= {"logs": {ENVIRONMENT_STEPS: STEPS_A_SECOND * seconds}, "seconds": rung**0.5}
        if decide(searcher.ledger, space.budget, name, report) != CONTINUE:
            searcher.hand_back(trial_id)
            del running[trial_id]
        if restart_every and step % restart_every == 0:
            searcher = FairSearcher(space, Ledger(folder, keep=2), seed=0)
            running, finished = {}, False
    return searcher


@pytest.mark.parametrize(("slots", "restart_every"), [(1, 0), (1, 7), (4, 0), (4, 9)])
def test_seconds_are_spent_alike_to_within_one_rung_a_slot(
    tmp_path: Path, slots: int, restart_every: int
) -> None:
    space = space_of(unit="seconds", seconds=120.0, trials=500)
    ledger = play(tmp_path, space, slots, restart_every).ledger
    spent = {algorithm: ledger.seconds(algorithm) for algorithm in space.algorithms}
    longest = {algorithm: 600 * pace for algorithm, pace in PACE.items()}  # from 300 tasks to 900
    for algorithm, seconds in spent.items():
        assert 120 <= seconds <= 120 + slots * longest[algorithm]
    n_trials = {algorithm: len(ledger.of(algorithm)) for algorithm in space.algorithms}
    assert n_trials["maml"] > n_trials["fomaml"] > n_trials["maml_pp"]
    if slots == 1:
        # One at a time, the last rung of each can be all that they differ by.
        assert max(spent.values()) - min(spent.values()) <= max(longest.values())


@pytest.mark.parametrize("scheduler", ["asha", "freeze_thaw"])
def test_steps_in_environments_are_spent_as_seconds_are(tmp_path: Path, scheduler: str) -> None:
    budget = {"scheduler": scheduler, "trials": 500}
    timed = play(tmp_path / "seconds", space_of(unit="seconds", seconds=60.0, **budget), slots=2)
    steps = 60 * STEPS_A_SECOND
    counted = play(
        tmp_path / "steps",
        space_of(unit=STEPS, environment_steps=steps, **budget),
        slots=2,
        restart_every=7 if scheduler == "asha" else 0,
    )
    for algorithm in PACE:
        assert steps <= counted.ledger.spent(algorithm, STEPS) <= steps + 2 * STEPS_A_SECOND * 24
    if scheduler == "freeze_thaw":
        lines = [
            [(t.name, t.sampled, t.decisions) for t in one.ledger.trials.values()] for one in (timed, counted)
        ]
        assert lines[0] == lines[1]


def test_who_takes_no_step_is_held_back_by_its_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = space_of(unit=STEPS, environment_steps=60 * STEPS_A_SECOND, trials=40, scheduler="asha")
    searcher = FairSearcher(space, Ledger(tmp_path, keep=2), seed=0)
    begun = []
    for number in range(20):
        trial = searcher.ledger.trials[searcher.suggest(str(number))["trial"]]
        begun.append(trial.algorithm)
        steps = 0 if trial.algorithm == "fomaml" else 2 * STEPS_A_SECOND
        for rung in searcher.rungs:
            logs = {ENVIRONMENT_STEPS: steps} if rung < 900 else {}  # and a report that does not count
            if (
                decide(searcher.ledger, space.budget, trial.name, make_report(rung, 0.5) | {"logs": logs})
                != CONTINUE
            ):
                break
        searcher.hand_back(str(number))
    assert 7 <= begun.count("fomaml") <= 9  # each trial of it is a 40th of its budget, of the others a 30th
    assert searcher.ledger.spent("maml", STEPS) == 2 * STEPS_A_SECOND * begun.count("maml")
    Watch(tmp_path, space).sum_up(searcher.ledger)
    assert "fomaml" not in capsys.readouterr().err


def test_when_seconds_are_spent_nobody_starts_or_goes_on(tmp_path: Path) -> None:
    space = space_of(unit="seconds", seconds=10.0)
    ledger = Ledger(tmp_path, keep=2)
    searcher = FairSearcher(space, ledger, seed=0)
    configs = [searcher.suggest(str(index)) for index in range(3)]
    first = next(config["trial"] for config in configs if config["algorithm"] == "maml")
    second = ledger.propose("maml", {}, {}, False, 0).name
    assert decide(ledger, space.budget, first, make_report(100, 0.5, seconds=4.0)) == CONTINUE
    assert decide(ledger, space.budget, first, make_report(300, 0.6, seconds=9.0)) == CONTINUE  # 9 in all
    assert decide(ledger, space.budget, second, make_report(100, 0.9, seconds=1.0)) == PRUNED  # 10 in all
    assert ledger.trials[second].details[100] == {"rung": 0, "is_spent": True}
    assert not ledger.trials[second].is_borderline
    further = [searcher.suggest(str(index)) for index in range(3, 9)]
    assert "maml" not in {config["algorithm"] for config in further}
    assert decide(ledger, space.budget, first, make_report(900, 0.6, seconds=20.0)) == COMPLETE


def test_a_search_waits_while_what_runs_may_spend_the_rest(tmp_path: Path) -> None:
    space = space_of(unit="seconds", seconds=10.0)
    only = space.model_copy(update={"algorithms": {"maml": {}}})
    ledger = Ledger(tmp_path, keep=2)
    searcher = FairSearcher(only, ledger, seed=0)
    a, b = searcher.suggest("a"), searcher.suggest("b")
    decide(ledger, only.budget, a["trial"], make_report(100, 0.5, seconds=4.0))
    # 4 s for 100 tasks: a runs on for 200 and b for 100, which would be 12 s more.
    assert searcher.suggest("c") is None
    decide(ledger, only.budget, b["trial"], make_report(100, 0.1, seconds=1.0))
    searcher.hand_back("b")
    assert searcher.suggest("c") is None  # 5 s, and a takes 5 s more
    ledger.fail(a["trial"], "broken")
    searcher.hand_back("a")
    assert isinstance(searcher.suggest("c"), dict)  # it did not
    decide(ledger, only.budget, "maml-002", make_report(100, 0.1, seconds=6.0))
    searcher.hand_back("c")
    assert searcher.suggest("d") == FINISHED


def test_where_tasks_are_the_unit_every_algorithm_gets_its_trials(tmp_path: Path) -> None:
    ledger = play(tmp_path, space_of(), slots=4).ledger
    assert {algorithm: len(ledger.of(algorithm)) for algorithm in PACE} == dict.fromkeys(PACE, 9)


def test_what_was_left_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = space_of(unit="seconds", seconds=1000.0, trials=2)
    searcher = play(tmp_path, space, slots=1)
    Watch(tmp_path, space).sum_up(searcher.ledger)
    spent = searcher.ledger.seconds("maml")
    assert f"maml: 2 trials took {spent:.0f} of 1,000 seconds; raise budget.trials" in capsys.readouterr().err


def test_an_ending_tells_the_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = space_of(unit="seconds", seconds=30.0)
    ledger = Ledger(tmp_path, keep=2)
    name = ledger.propose("maml", {}, {}, False, 0).name
    decide(ledger, space.budget, name, make_report(100, None, seconds=12.0))
    Watch(tmp_path, space).ended(ledger, name)
    assert "[1; maml 12 of 30 seconds] maml-000 diverged" in capsys.readouterr().err
    assert records.trials(tmp_path)[name]["seconds"] == 12.0
