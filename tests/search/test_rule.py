"""Who may go on from a rung, and what is written down of why."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabench.core.config import BudgetConfig, SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import (
    COMPLETE,
    CONTINUE,
    DIVERGED,
    JOURNAL,
    PRUNED,
    WORK,
    Arrival,
    Ledger,
)
from metabench.search.journal.rule import RungRank, decide, rank, scalars
from metabench.storage import files, records
from tests.search.played import make_error_report, make_report


def add_trials(ledger: Ledger, algorithm: str, count: int) -> list[str]:
    return [ledger.propose(algorithm, {}, {}, False, 0).name for _ in range(count)]


def arrivals(scores: Sequence[float]) -> list[Arrival]:
    return [Arrival(f"maml-{index:03d}", score) for index, score in enumerate(scores)]


def place(score: float, others: Sequence[float], reduction_factor: int) -> RungRank:
    return rank(Arrival("own", score), arrivals(others), reduction_factor)


def goes_on(score: float, others: Sequence[float], reduction_factor: int) -> bool:
    return place(score, others, reduction_factor).is_promoted


NAN, INF = math.nan, math.inf
ARRIVING = [0.50, 0.40, 0.60, 0.55, 0.55, 0.60, NAN, 0.58, 0.10, INF, 0.90, 0.60, 0.95, 0.70, 0.65]

# Worked out by hand. With a factor of 4: 0.50 is the first; of 2 to 7 there one goes on, so 0.40, twice 0.55
# and 0.58 are stopped and the second 0.60 ties with the best; of 9 there two go on: 0.90 and 0.60; 0.70 is
# the third of 12, of which three go on; 0.65 is the fourth of 13. NaN and infinity end trials uncounted.
GOLDEN = {2: "CPCCCCDCPDCCCCC", 3: "CPCPPCDPPDCCCCC", 4: "CPCPPCDPPDCCCCP"}


@pytest.mark.parametrize("reduction_factor", GOLDEN)
def test_scores_that_arrive_in_this_order_are_decided_so(
    tmp_path: Path, space: SearchSpace, reduction_factor: int
) -> None:
    budget = space.budget.model_copy(update={"reduction_factor": reduction_factor})
    ledger = Ledger(tmp_path, keep=2)
    names = add_trials(ledger, "maml", len(ARRIVING))
    reports = [make_report(100, score) for score in ARRIVING]
    decided = [decide(ledger, budget, name, report) for name, report in zip(names, reports, strict=True)]
    letters = {CONTINUE: "C", PRUNED: "P", DIVERGED: "D"}
    assert "".join(letters[decision] for decision in decided) == GOLDEN[reduction_factor]
    finite = [score for score in ARRIVING if math.isfinite(score)]
    assert [arrival.score for arrival in ledger.rung("maml", 100)] == finite
    again = [decide(ledger, budget, name, report) for name, report in zip(names, reports, strict=True)]
    assert again == decided  # whatever came after them


SCORES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), max_size=15)


@given(score=st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), others=SCORES, factor=st.integers(2, 5))
def test_the_best_share_of_a_sorted_rung_goes_on_and_the_margin_says_so(
    score: float, others: list[float], factor: int
) -> None:
    best_first = sorted([score, *others], reverse=True)
    n = len(best_first)
    last_that_goes_on = best_first[max(1, n // factor) - 1]
    decision = place(score, others, factor)
    assert decision.is_promoted == (score >= last_that_goes_on)
    assert (decision.rank, decision.arrived) == (best_first.index(score) + 1, n)
    if not others:
        assert decision.against is decision.cutoff is decision.margin is None
        return
    assert decision.margin is not None
    assert decision.cutoff == others[int(str(decision.against)[-3:])]
    assert decision.margin == score - decision.cutoff
    assert (decision.margin >= 0) == decision.is_promoted
    if not decision.is_promoted:
        assert decision.cutoff == last_that_goes_on
    # The other is what decides: just above it goes on, just below it is stopped.
    assert goes_on(decision.cutoff, others, factor)
    assert not goes_on(decision.cutoff - 0.01, others, factor)


@pytest.mark.parametrize(
    ("grace", "tasks", "factor", "expected"),
    [
        (1, 1000, 10, [1, 10, 100, 1000]),  # log(1000) / log(10) is below 3 in floating point
        (1, 243, 3, [1, 3, 9, 27, 81, 243]),
        (100, 900, 3, [100, 300, 900]),
        (100, 901, 3, [100, 300, 900, 901]),
        (7, 100, 4, [7, 28, 100]),
        (5, 5, 2, [5]),
        (10**9, 10**12, 10, [10**9, 10**10, 10**11, 10**12]),
    ],
)
def test_rungs_are_exact_powers_below_the_full_budget(
    grace: int, tasks: int, factor: int, expected: list[int]
) -> None:
    budget = BudgetConfig(tasks=tasks, trials=1, grace=grace, reduction_factor=factor)
    assert spaces.rungs(budget) == expected


def test_a_report_beside_the_rungs_is_refused(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    (name,) = add_trials(ledger, "maml", 1)
    with pytest.raises(ValueError, match="101"):
        decide(ledger, space.budget, name, make_report(101, 0.5))
    assert ledger.trials[name].reports == []


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
    decided = [decide(ledger, space.budget, name, make_report(t, score)) for name, t, score, _ in history]
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
        decide(ledger, space.budget, name, make_error_report(t, error)) for name, t, error, _ in history
    ]
    assert decided == [decision for *_, decision in history]
    assert [arrival.score for arrival in ledger.rung("maml", 100)] == [-4.0, -5.0, -0.5, -0.6]


@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
def test_of_scores_that_arrive_worst_last_exactly_the_share_goes_on(reduction_factor: int) -> None:
    scores = [1 - index / 100 for index in range(60)]
    kept = [goes_on(score, scores[:index], reduction_factor) for index, score in enumerate(scores)]
    assert kept == [True] + [False] * 59  # each is worse than all before it, so only the first is in the top
    rising = [
        goes_on(score, scores[::-1][:index], reduction_factor) for index, score in enumerate(scores[::-1])
    ]
    assert all(rising)  # a new best always goes on


def test_the_decision_depends_on_the_set_of_scores_not_on_their_order() -> None:
    orders = itertools.permutations([0.1, 0.2, 0.6, 0.7, 0.5])
    placed = [place(0.5, others, 3)._replace(against=None) for others in orders]
    assert len(set(placed)) == 1


def test_a_tie_at_the_cut_goes_on() -> None:
    assert goes_on(0.2, [0.2] * 10, 3)


def test_rungs_of_one_algorithm_do_not_judge_another(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    (good,), (poor,) = add_trials(ledger, "maml", 1), add_trials(ledger, "maml_pp", 1)
    decide(ledger, space.budget, good, make_report(100, 0.9))
    assert decide(ledger, space.budget, poor, make_report(100, 0.1)) == CONTINUE


def test_lower_rungs_are_never_filled_by_later_reports(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    first, second = add_trials(ledger, "maml", 2)
    decide(ledger, space.budget, first, make_report(300, 0.9))
    assert ledger.rung("maml", 100) == []
    assert decide(ledger, space.budget, second, make_report(100, 0.1)) == CONTINUE


def test_a_report_told_twice_is_recorded_once_and_answered_alike(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    first, second = add_trials(ledger, "maml", 2)
    decide(ledger, space.budget, first, make_report(100, 0.3))
    decide(ledger, space.budget, second, make_report(100, 0.9))
    assert (
        decide(ledger, space.budget, first, make_report(100, 0.3)) == CONTINUE
    )  # though it would be pruned now
    assert [arrival.score for arrival in ledger.rung("maml", 100)] == [0.3, 0.9]


def test_a_restart_after_every_decision_changes_no_decision(tmp_path: Path, space: SearchSpace) -> None:
    script = [(index, rung, ((index * 7 + rung) % 11) / 11) for rung in (100, 300) for index in range(8)]

    def play(folder: Path, restart: bool) -> list[str]:
        ledger = Ledger(folder, keep=2)
        names = add_trials(ledger, "maml", 8)
        decided = []
        for index, rung, score in script:
            ledger = Ledger(folder, keep=2) if restart else ledger
            if ledger.trials[names[index]].status is None:
                decided.append(decide(ledger, space.budget, names[index], make_report(rung, score)))
        return decided

    whole = play(tmp_path / "whole", restart=False)
    assert play(tmp_path / "restarted", restart=True) == whole
    assert {CONTINUE, PRUNED} == set(whole)


def report_scores(ledger: Ledger, name: str, tasks_seen: int, scores: Sequence[float]) -> dict[str, Any]:
    """Leave a report where a trial leaves it, and return it."""
    report = make_report(tasks_seen, statistics.fmean(scores), scores=scores)
    files.append_line(ledger.folder / WORK / name / files.REPORTS, report)
    return report


def test_what_a_decision_rests_on_is_written_down_with_hand_made_numbers(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, keep=2)
    names = add_trials(ledger, "maml", 4)
    tasks = [[0.8, 0.6, 0.4, 0.6], [0.4, 0.6, 0.6, 0.4], [0.7, 0.5, 0.3, 0.5], [0.9, 0.9, 0.9, 0.9]]
    for name, scores in zip(names, tasks, strict=True):
        decide(ledger, space.budget, name, report_scores(ledger, name, 100, scores))
    first, noisy, sure, best = (ledger.trials[name].details[100] for name in names)
    assert first == {
        **dict.fromkeys(("against", "cutoff", "margin", "tasks", "paired_se")),
        "rung": 0,
        "rank": 1,
        "arrived": 1,
        "doubtful": False,
    }
    # Differences -0.4, 0, 0.2, -0.2: mean -0.1, squares .09 + .01 + .09 + .01 = 0.2, variance 0.2 / 3.
    assert noisy["paired_se"] == pytest.approx(math.sqrt(0.2 / 3 / 4))
    assert (noisy["rank"], noisy["arrived"], noisy["against"], noisy["tasks"]) == (2, 2, names[0], 4)
    assert (noisy["cutoff"], noisy["margin"]) == (0.6, pytest.approx(-0.1))
    assert noisy["doubtful"]
    # 0.1 behind on every task: no further from the cut-off, but beyond doubt
    assert (sure["margin"], sure["paired_se"]) == (pytest.approx(-0.1), pytest.approx(0, abs=1e-12))
    assert not sure["doubtful"]
    # The best goes on; 0.6, whose place it takes, is what it could have fallen behind.
    assert (best["rank"], best["against"], best["cutoff"]) == (1, names[0], 0.6)
    assert best["margin"] == pytest.approx(0.3)
    assert [ledger.trials[name].is_borderline for name in names] == [False, True, False, False]


def test_decisions_stand_in_the_journal_and_in_trials_jsonl_but_scores_of_tasks_do_not(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, keep=2)
    first, second = add_trials(ledger, "maml", 2)
    decide(ledger, space.budget, first, report_scores(ledger, first, 100, [0.5, 0.6]))
    decide(ledger, space.budget, second, report_scores(ledger, second, 100, [0.6, 0.4]))
    events = [event for event in files.read_lines(tmp_path / JOURNAL) if event["event"] == "report"]
    assert [event["basis"] for event in events] == [ledger.trials[n].details[100] for n in (first, second)]
    assert "val_scores" not in (tmp_path / JOURNAL).read_text()
    assert not any("val_scores" in report for t in ledger.trials.values() for report in t.reports)
    line = records.trials(tmp_path)[second]
    assert line["decisions"] == [{"tasks_seen": 100, "decision": PRUNED, **events[1]["basis"]}]
    assert "val_scores" not in json.dumps(line)
    assert Ledger(tmp_path, keep=2).trials == ledger.trials
    shown = scalars(ledger.trials[second].details[100], sign=1)
    assert shown == {
        "stopping/rung": 0,
        "stopping/rank": 2,
        "stopping/cutoff": 0.55,
        "stopping/margin": pytest.approx(-0.05),
    }
    assert scalars({"cutoff": -0.3, "margin": -0.1}, sign=-1) == {
        "stopping/cutoff": 0.3,
        "stopping/margin": -0.1,
    }


def test_a_twin_is_beyond_doubt(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=2)
    for name in add_trials(ledger, "maml", 2):
        assert decide(ledger, space.budget, name, report_scores(ledger, name, 100, [0.5, 0.7])) == CONTINUE
    basis = ledger.trials["maml-001"].details[100]
    assert (basis["margin"], basis["paired_se"], basis["doubtful"]) == (0, 0, False)


def test_without_the_others_reports_the_decision_stands_and_its_noise_is_unknown(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, keep=2)
    first, second = add_trials(ledger, "maml", 2)
    decide(ledger, space.budget, first, make_report(100, 0.5, scores=[0.4, 0.6]))  # left no file
    decide(ledger, space.budget, second, make_report(100, 0.4, scores=[0.3, 0.5]))
    basis = ledger.trials[second].details[100]
    assert (basis["margin"], basis["paired_se"], basis["doubtful"]) == (pytest.approx(-0.1), None, False)


def test_a_trial_that_diverges_between_two_rungs_ends_there(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=1)
    (name,) = add_trials(ledger, "maml", 1)
    decide(ledger, space.budget, name, make_report(100, 0.5))
    assert decide(ledger, space.budget, name, make_report(117, None)) == DIVERGED
    assert ledger.trials[name].details[117]["rung"] == 1  # it ran towards 300
    assert Ledger(tmp_path, keep=1).trials[name].status == DIVERGED
