"""Trials that wait at a rung: who goes on, who is stopped, and that it is the same after any kill."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from metabench.core.config import BudgetConfig
from metabench.search.journal.ledger import COMPLETE, CONTINUE, DIVERGED, JOURNAL, PRUNED, WAIT, Ledger
from metabench.search.journal.rule import decide, next_waiting, resume, stop_waiting
from metabench.search.propose.searcher import FINISHED, FairSearcher
from metabench.storage import files
from tests.search import proposals
from tests.search.played import make_report

RUNGS = (100, 300, 900)
SPACE = proposals.space_of(pause=True, trials=9)


def search(
    folder: Path, scores: Sequence[Sequence[float | None]], budget: BudgetConfig, drops: bool = True
) -> list[tuple[int, int, str]]:
    """Play trials one after another, each with its scores at the rungs; return number, rung and decision.

    Args:
        drops: whether those that can never go on are stopped at once.
    """
    ledger, events = Ledger(folder, keep=2), []
    open_ = [trial for trial in ledger.of("maml") if trial.status is None and not trial.is_waiting]
    while True:
        is_open = len(ledger.of("maml")) < len(scores)
        if drops:
            stop_waiting(ledger, budget, "maml", len(scores))
        trial = open_.pop() if open_ else resume(ledger, budget, "maml", 0 if is_open else 900)
        if trial is None and not is_open:
            break
        trial = trial or ledger.propose("maml", {"number": len(ledger.of("maml"))}, {}, False, 0)
        decision = CONTINUE
        while decision == CONTINUE:
            rung = next(rung for rung in RUNGS if rung > trial.tasks_seen)
            report = make_report(rung, scores[trial.number][RUNGS.index(rung)])
            decision = decide(ledger, budget, trial.name, report)
            events.append((trial.number, rung, decision))
    stop_waiting(ledger, budget, "maml", 0)
    return events


GOLDEN = [
    # The first three wait; the third of them to arrive makes one place, and is not the best.
    (0, 100, WAIT),
    (1, 100, WAIT),
    (2, 100, WAIT),
    (1, 300, WAIT),
    (3, 100, WAIT),
    (4, 100, CONTINUE),  # the best of five goes on without leaving its worker
    (4, 300, WAIT),
    (5, 100, WAIT),
    (6, 100, DIVERGED),
    (7, 100, WAIT),
    (8, 100, WAIT),
    (4, 900, COMPLETE),  # of two, now that all have been tried
]


def test_the_decisions_of_a_search_are_these(tmp_path: Path) -> None:
    scores = [
        (0.50, 0.70, 0.8),
        (0.60, 0.55, 0.9),
        (0.40, 0.9, 0.9),
        (0.45, 0.9, 0.9),
        (0.65, 0.60, 0.7),
        (0.30, 0.9, 0.9),
        (None, 0.9, 0.9),
        (0.35, 0.9, 0.9),
        (0.48, 0.9, 0.9),
    ]
    assert search(tmp_path, scores, SPACE.budget) == GOLDEN
    ledger = Ledger(tmp_path, keep=2)
    assert Counter(trial.status for trial in ledger.of("maml")) == {COMPLETE: 1, DIVERGED: 1, PRUNED: 7}
    resumed = [event for event in files.read_lines(tmp_path / JOURNAL) if event["event"] == "resumed"]
    assert [(event["trial"], event["tasks_seen"]) for event in resumed] == [
        ("maml-001", 100),
        ("maml-004", 300),
    ]
    basis = {"rank": 1, "arrived": 2, "rung": 1, "against": "maml-001"}
    assert basis.items() <= resumed[1]["basis"].items()


def test_the_best_gets_to_the_full_budget_however_few_there_are(tmp_path: Path) -> None:
    played = search(tmp_path, [(0.5, 0.6, 0.7), (0.6, 0.7, 0.8)], SPACE.budget)
    assert played == [(0, 100, WAIT), (1, 100, WAIT), (1, 300, WAIT), (1, 900, COMPLETE)]


def test_who_diverges_after_a_rung_leaves_its_place_to_another(tmp_path: Path) -> None:
    played = search(tmp_path, [(0.5, 0.6, 0.7), (0.6, None, None)], SPACE.budget)
    assert played[-3:] == [(1, 300, DIVERGED), (0, 300, WAIT), (0, 900, COMPLETE)]


@pytest.mark.parametrize("seed", range(8))
def test_who_is_stopped_at_once_would_never_have_gone_on(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scores = [[rng.choice([0.1, 0.2, 0.3, 0.4, 0.5]) for _ in RUNGS] for _ in range(20)]
    budget = SPACE.budget.model_copy(update={"trials": 20})
    ways = [search(tmp_path / str(drops), scores, budget, drops) for drops in (True, False)]
    assert ways[0] == ways[1]
    for rung in RUNGS[:-1]:
        ledger = Ledger(tmp_path / "True", keep=2)
        table = ledger.rung("maml", rung)
        n_best = max(1, len(table) // 3)
        for arrived in table:
            n_better = sum(other.score > arrived.score for other in table)
            went_on = ledger.trials[arrived.trial].tasks_seen > rung
            assert went_on or n_better >= n_best, "who is among the best goes on"


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_any_moment_changes_no_decision(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    scores = [[rng.random() for _ in RUNGS] for _ in range(9)]
    search(tmp_path / "whole", scores, SPACE.budget)
    journal = files.read_lines(tmp_path / "whole" / JOURNAL)
    whole = {trial.name: trial.decisions for trial in Ledger(tmp_path / "whole", keep=2).of("maml")}
    for kept in range(1, len(journal)):
        files.write_lines(tmp_path / str(kept) / JOURNAL, journal[:kept])
        search(tmp_path / str(kept), scores, SPACE.budget)
        again = Ledger(tmp_path / str(kept), keep=2)
        assert {trial.name: trial.decisions for trial in again.of("maml")} == whole


def test_seconds_leave_the_leader_its_way_to_the_full_budget(tmp_path: Path) -> None:
    timed = SPACE.budget.model_copy(update={"unit": "seconds", "seconds": 40.0, "trials": 1000})
    space = SPACE.model_copy(update={"budget": timed})
    searcher = FairSearcher(space, ledger := Ledger(tmp_path, keep=2), seed=3)
    for number in range(1000):
        config = searcher.suggest(str(number))
        if config == FINISHED:
            break
        assert isinstance(config, dict)
        trial = ledger.trials[config["trial"]]
        decision = CONTINUE
        while decision == CONTINUE:
            rung = next(rung for rung in RUNGS if rung > trial.tasks_seen)
            score = proposals.score(config["hyperparameters"]) - 10 / rung
            decision = decide(ledger, timed, trial.name, make_report(rung, score, rung / 100))
        searcher.hand_back(str(number))
    searcher.finish()
    assert 36 <= ledger.seconds("maml_pp") <= 46
    assert len(ledger.of("maml_pp")) > 12
    assert any(trial.status == COMPLETE for trial in ledger.of("maml_pp"))


def test_after_a_change_to_another_rule_who_waits_is_not_forgotten(tmp_path: Path) -> None:
    searcher = FairSearcher(SPACE, Ledger(tmp_path, keep=2), seed=3)
    for number in range(2):
        config = searcher.suggest(str(number))
        report = make_report(100, 0.5 + number / 100)
        assert decide(searcher.ledger, SPACE.budget, config["trial"], report) in (WAIT, CONTINUE)
        searcher.hand_back(str(number))
    waiting = {trial.name for trial in searcher.ledger.of("maml_pp") if trial.is_waiting}
    assert waiting
    for changed in ({"pause": False}, {"scheduler": "none"}, {"grace": 50}):
        budget = SPACE.budget.model_copy(update={**changed, "trials": 2})
        again = FairSearcher(SPACE.model_copy(update={"budget": budget}), Ledger(tmp_path, keep=2), seed=3)
        waits = next_waiting(again.ledger, budget, "maml_pp", full=900)
        assert waits is not None, changed
        assert waits[0] in waiting
    again.finish()
    assert not any(trial.is_waiting for trial in again.ledger.of("maml_pp"))
    assert waiting <= {trial.name for trial in again.ledger.candidates("maml_pp")}


def test_who_waits_goes_on_only_where_there_is_time_for_its_way(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, keep=2)
    for number, seen in enumerate((100, 300)):
        name = ledger.propose("maml", {"number": number}, {}, False, 0).name
        for rung in RUNGS[: 1 + RUNGS.index(seen)]:
            decide(ledger, SPACE.budget, name, make_report(rung, 0.5))
            if rung < seen:
                ledger.settle(name, CONTINUE, {"rung": 0})
    asked: list[int] = []

    def has_room(algorithm: str, tasks: int) -> bool:
        asked.append(tasks)
        return tasks <= 200

    waits = next_waiting(ledger, SPACE.budget, "maml", 900, has_room)
    assert waits is not None
    assert waits[0] == "maml-000"
    assert sorted(asked) == [200, 600]


def test_with_second_looks_somebody_still_gets_to_the_full_budget(tmp_path: Path) -> None:
    budget = SPACE.budget.model_copy(update={"borderline_tasks": 20})
    ledger = Ledger(tmp_path, keep=2)
    for base, again in ((0.60, 0.55), (0.59, 0.60)):
        name = ledger.propose("maml", {"number": base}, {}, False, 0).name
        ledger.record(name, {**make_report(100, base), "borderline_score": again}, WAIT, {"rung": 0})
    waits = next_waiting(ledger, budget, "maml", full=900)
    assert waits is not None
    assert waits[0] == "maml-001"


def test_a_rung_below_is_emptied_before_the_best_of_few_goes_on(tmp_path: Path) -> None:
    scores = [
        (0.50, 0.60, 0.7),
        (0.3, 0.1, 0.1),
        (0.2, 0.1, 0.1),
        (0.49, 0.65, 0.8),
        (0.1, 0.1, 0.1),
        (0.1, 0.1, 0.1),
    ]
    played = search(tmp_path, scores, SPACE.budget)
    assert [(number, rung) for number, rung, decision in played if decision == COMPLETE] == [(3, 900)]


def test_where_nobody_may_go_on_no_margin_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, keep=2)
    for number, (score, margin) in enumerate(((0.5, None), (0.6, None), (0.7, pytest.approx(0.1)))):
        name = ledger.propose("maml", {"number": number}, {}, False, 0).name
        decide(ledger, SPACE.budget, name, make_report(100, score))
        assert ledger.trials[name].details[100]["margin"] == margin
