"""Who may go on from a rung."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from metabench.config import SearchSpace
from metabench.objectives import OBJECTIVES
from metabench.search.asha import RungScheduler, is_top, judge
from metabench.search.ledger import COMPLETE, CONTINUE, DIVERGED, PRUNED, Ledger
from tests.search.played import make_error_report, make_report


def add_trials(ledger: Ledger, algorithm: str, count: int) -> list[str]:
    return [ledger.propose(algorithm, {}, {}, False, 0).name for _ in range(count)]


def test_the_decisions_of_a_scripted_history_are_these(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    a, b, c, d, e, f, g, h, i = add_trials(ledger, "maml", 9)
    history = [
        (a, 100, 0.30, CONTINUE),  # the first to arrive
        (b, 100, 0.25, PRUNED),  # 2 there: 1 goes on, a is better
        (c, 100, 0.35, CONTINUE),  # 3 there: 1 goes on
        (a, 300, 0.40, CONTINUE),  # the first at the second rung; never called back though c beat it below
        (d, 100, 0.34, PRUNED),  # 4 there: 1 goes on
        (e, 100, 0.34, PRUNED),  # 5 there
        (f, 100, 0.33, PRUNED),  # 6 there: 2 go on, but three are better
        (c, 300, 0.39, PRUNED),  # 2 at the second rung
        (a, 900, 0.10, COMPLETE),  # the full budget is always complete
        (g, 100, None, DIVERGED),
        (h, 100, 0.345, CONTINUE),  # 7 there, g is not: 2 go on, only c is better
        (h, 300, 0.40, CONTINUE),  # ties with the best of 3 there
        (h, 900, None, DIVERGED),  # also at the full budget
        (i, 100, 0.0, PRUNED),
    ]
    decided = [judge(ledger, space.budget, name, make_report(t, score)) for name, t, score, _ in history]
    assert decided == [decision for *_, decision in history]


def test_the_lowest_errors_go_on(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, 2, OBJECTIVES["regression"])
    a, b, c, d, e = add_trials(ledger, "maml", 5)
    history = [
        (a, 100, 4.0, CONTINUE),  # the first to arrive
        (b, 100, 5.0, PRUNED),
        (c, 100, 0.5, CONTINUE),  # the lowest of 3
        (d, 100, None, DIVERGED),
        (e, 100, 0.6, PRUNED),  # 4 there: 1 goes on
        (c, 300, 0.1, CONTINUE),
        (a, 300, 0.2, PRUNED),
        (c, 900, 7.0, COMPLETE),
    ]
    decided = [
        judge(ledger, space.budget, name, make_error_report(t, error)) for name, t, error, _ in history
    ]
    assert decided == [decision for *_, decision in history]
    assert sorted(ledger.scores("maml", 100)) == [-5.0, -4.0, -0.6, -0.5]


@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
def test_of_scores_that_arrive_worst_last_exactly_the_share_goes_on(reduction_factor: int) -> None:
    scores = [1 - index / 100 for index in range(60)]
    kept = [is_top(score, scores[:index], reduction_factor) for index, score in enumerate(scores)]
    assert kept == [True] + [False] * 59  # each is worse than all before it, so only the first is in the top
    rising = [
        is_top(score, scores[::-1][:index], reduction_factor) for index, score in enumerate(scores[::-1])
    ]
    assert all(rising)  # a new best always goes on


def test_the_decision_depends_on_the_set_of_scores_not_on_their_order() -> None:
    decisions = {is_top(0.5, others, 3) for others in itertools.permutations([0.1, 0.2, 0.6, 0.7, 0.5])}
    assert len(decisions) == 1


def test_a_tie_at_the_cut_goes_on() -> None:
    assert is_top(0.2, [0.2] * 10, 3)


def test_rungs_of_one_algorithm_do_not_judge_another(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    (good,), (poor,) = add_trials(ledger, "maml", 1), add_trials(ledger, "maml_pp", 1)
    judge(ledger, space.budget, good, make_report(100, 0.9))
    assert judge(ledger, space.budget, poor, make_report(100, 0.1)) == CONTINUE


def test_lower_rungs_are_never_filled_by_later_reports(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    first, second = add_trials(ledger, "maml", 2)
    judge(ledger, space.budget, first, make_report(300, 0.9))
    assert ledger.scores("maml", 100) == []
    assert judge(ledger, space.budget, second, make_report(100, 0.1)) == CONTINUE


def test_a_report_told_twice_is_recorded_once_and_answered_alike(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    first, second = add_trials(ledger, "maml", 2)
    judge(ledger, space.budget, first, make_report(100, 0.3))
    judge(ledger, space.budget, second, make_report(100, 0.9))
    assert (
        judge(ledger, space.budget, first, make_report(100, 0.3)) == CONTINUE
    )  # though it would be pruned now
    assert sorted(ledger.scores("maml", 100)) == [0.3, 0.9]


def test_a_restart_after_every_decision_changes_no_decision(tmp_path: Path, space: SearchSpace) -> None:
    script = [(index, rung, ((index * 7 + rung) % 11) / 11) for rung in (100, 300) for index in range(8)]

    def play(folder: Path, restart: bool) -> list[str]:
        ledger = Ledger(folder, keep=2)
        names = add_trials(ledger, "maml", 8)
        decided = []
        for index, rung, score in script:
            ledger = Ledger(folder, keep=2) if restart else ledger
            if ledger.trials[names[index]].status is None:
                decided.append(judge(ledger, space.budget, names[index], make_report(rung, score)))
        return decided

    whole = play(tmp_path / "whole", restart=False)
    assert play(tmp_path / "restarted", restart=True) == whole
    assert {CONTINUE, PRUNED} == set(whole)


def test_the_scheduler_stops_what_the_ledger_ends_and_nan_never_goes_on(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, keep=2)
    scheduler = RungScheduler(ledger, space.budget)
    names = add_trials(ledger, "maml", 3)

    def ask(name: str, tasks_seen: int, accuracy: float | None) -> str:
        trial = SimpleNamespace(config={"trial": name})
        return scheduler.on_trial_result(
            None, trial, {"report": json.dumps(make_report(tasks_seen, accuracy))}
        )

    assert ask(names[0], 100, 0.5) == TrialScheduler.CONTINUE
    assert ask(names[1], 100, None) == TrialScheduler.STOP
    assert ask(names[2], 100, 0.4) == TrialScheduler.STOP
    assert ask(names[0], 900, 0.6) == TrialScheduler.STOP
    assert [ledger.trials[name].status for name in names] == [COMPLETE, DIVERGED, PRUNED]
