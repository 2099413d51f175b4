"""Replays: the decisions, costs and leaders of histories that can be followed by hand, and laws of any."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import COMPLETE, CONTINUE, DIVERGED, FAILED, PRUNED, WAIT, Ledger
from metabench.search.journal.rule import REEVALUATE, decide
from metabench.search.replay.curves import Point, Recording
from metabench.search.replay.scenario import Scenario, describe
from metabench.search.replay.simulate import CENSORED, Event, Incumbent
from tests.search.played import make_report
from tests.search.recorded import curve, many, only_maml, play, recording

A = curve("a", [0.30, 0.40, 0.50])
B = curve("b", [0.25, 0.70, 0.90])  # the best in the end, and slow to show it
C = curve("c", [0.35, 0.39, 0.45])
D = curve("d", [0.36, 0.45, 0.60])

STEPS = "environment_steps"


@pytest.fixture
def four(space: SearchSpace) -> Recording:
    return recording(only_maml(space, trials=4), [A, B, C, D])


def in_order(made: Recording, workers: int = 1, **budget: Any) -> Scenario:
    return describe(made, {"sampler": "recorded", **budget}, workers)


def test_one_worker_takes_one_setting_after_the_other(four: Recording) -> None:
    played = play(four, in_order(four), seed=0).played["maml"]
    assert [event[:1] + event[2:] for event in played.events] == [
        (1, "a", 100, 0.30, CONTINUE),  # the first to arrive
        (3, "a", 300, 0.40, CONTINUE),
        (9, "a", 900, 0.50, COMPLETE),
        (10, "b", 100, 0.25, PRUNED),  # 2 there: 1 goes on, a is better
        (11, "c", 100, 0.35, CONTINUE),  # 3 there
        (13, "c", 300, 0.39, PRUNED),  # 2 there, a is better
        (14, "d", 100, 0.36, CONTINUE),
        (16, "d", 300, 0.45, CONTINUE),
        (22, "d", 900, 0.60, COMPLETE),
    ]
    assert played.incumbents == [Incumbent("a", 9, 900, 9), Incumbent("d", 22, 2200, 22)]
    assert (played.tasks, played.seconds) == (900 + 100 + 300 + 900, 22)


def test_two_workers_meet_at_the_rungs(four: Recording) -> None:
    replay = play(four, in_order(four, workers=2), seed=0)
    played = replay.played["maml"]
    assert [event[:1] + event[2:] for event in played.events] == [
        (1, "a", 100, 0.30, CONTINUE),  # of the same time: a set out first
        (1, "b", 100, 0.25, PRUNED),
        (2, "c", 100, 0.35, CONTINUE),
        (3, "a", 300, 0.40, CONTINUE),
        (4, "c", 300, 0.39, PRUNED),
        (5, "d", 100, 0.36, CONTINUE),
        (7, "d", 300, 0.45, CONTINUE),  # the best of 3
        (9, "a", 900, 0.50, COMPLETE),
        (13, "d", 900, 0.60, COMPLETE),
    ]
    assert played.incumbents == [
        Incumbent("b", 1, 200, 2),  # of what has ended; seconds are those of both workers, so twice the clock
        Incumbent("c", 4, 700, 8),
        Incumbent("a", 9, 1600, 18),
        Incumbent("d", 13, 2200, 22),  # the other worker found nothing to do
    ]
    assert replay.time == 13


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_on_disk_decides_as_the_replay_did(space: SearchSpace, tmp_path: Path, seed: int) -> None:
    made = recording(only_maml(space, trials=20), many(20, seed))
    scenario = in_order(made, workers=3)
    played = play(made, scenario, seed).played["maml"]
    ledger = Ledger(tmp_path, keep=2)
    for one in made.curves["maml"]:
        ledger.propose("maml", one.sampled, {}, False, 0)
    for event in played.events:
        report = make_report(event.tasks_seen, event.score)
        assert decide(ledger, scenario.space.budget, event.trial, report) == event.decision
    assert [trial.status for trial in Ledger(tmp_path, keep=2).of("maml")] == played.endings


def test_validation_on_fewer_tasks_takes_the_first_and_their_share_of_the_time(space: SearchSpace) -> None:
    early, late = (1.0,) * 2 + (0.0,) * 8, (0.0,) * 2 + (1.0,) * 8
    points = {
        name: tuple(
            Point(tasks_seen, tasks_seen / 100, 5.0, sum(scores) / 10, scores) for tasks_seen in (100, 900)
        )
        for name, scores in {"early": early, "late": late}.items()
    }
    curves = [curve(name, [])._replace(points=trial_points) for name, trial_points in points.items()]
    made = recording(only_maml(space, trials=2), curves, (100, 900))._replace(is_per_task=True)
    reports = {
        n_tasks: play(made, in_order(made, validation_tasks=n_tasks), 0).played["maml"].events
        for n_tasks in (2, 10)
    }
    assert reports[2] == [
        Event(1 + 1, "maml-000", "early", 100, 1.0, CONTINUE),  # two of ten tasks: a fifth of 5 seconds
        Event(9 + 2, "maml-000", "early", 900, 1.0, COMPLETE),
        Event(11 + 2, "maml-001", "late", 100, 0.0, PRUNED),
    ]
    assert reports[10] == [
        Event(1 + 5, "maml-000", "early", 100, 0.2, CONTINUE),
        Event(9 + 10, "maml-000", "early", 900, 0.2, COMPLETE),
        Event(19 + 6, "maml-001", "late", 100, 0.8, CONTINUE),
        Event(19 + 19, "maml-001", "late", 900, 0.8, COMPLETE),
    ]


def test_what_ended_early_ends_there_again_and_says_how(space: SearchSpace) -> None:
    diverged = curve("diverged", [0.9, None])
    points = (diverged.points[0], diverged.points[1]._replace(tasks_seen=204, seconds=2.5))
    curves = [
        curve("cut", [0.3, 0.4], None),
        diverged._replace(points=points, status=DIVERGED),
        curve("failed", [0.95], FAILED),
        curve("never", [], FAILED),
        curve("pruned", [0.1], PRUNED),
    ]
    made = recording(only_maml(space, trials=5), curves)
    played = play(made, in_order(made), 0).played["maml"]
    assert [(event.curve, event.time, event.tasks_seen, event.decision) for event in played.events] == [
        ("cut", 1, 100, CONTINUE),
        ("cut", 3, 300, CENSORED),
        ("diverged", 4, 100, CONTINUE),
        ("diverged", 5.5, 204, DIVERGED),  # between two rungs
        ("failed", 6.5, 100, FAILED),  # it would have gone on
        ("never", 6.5, 0, FAILED),
        ("pruned", 7.5, 100, PRUNED),  # as by its own search, so nothing is missing
    ]
    assert [one.curve for one in played.incumbents] == ["cut"]  # what failed or diverged leads nothing
    assert played.tasks == 300 + 204 + 100 + 0 + 100


@pytest.mark.parametrize("order", ["random", "tpe"])
@pytest.mark.parametrize("workers", [1, 3])
def test_one_rung_is_a_search_at_full_budget(space: SearchSpace, order: str, workers: int) -> None:
    made = recording(only_maml(space, trials=12), many(12, seed=1))
    played = play(made, describe(made, {"grace": 900, "sampler": order}, workers), seed=5).played["maml"]
    whole = {one.name: one.points[-1] for one in made.curves["maml"]}
    assert {event.decision for event in played.events} == {COMPLETE}
    assert sorted(played.curves) == sorted(whole)
    assert played.tasks == 12 * 900
    assert played.seconds == pytest.approx(sum(point.seconds for point in whole.values()))
    finished = [event.curve for event in played.events]
    leaders = accumulate(finished, lambda best, new: max(best, new, key=lambda name: whole[name].score))
    assert [one.curve for one in played.incumbents] == list(dict.fromkeys(leaders))


def test_a_factor_above_the_number_of_trials_lets_only_new_records_pass(space: SearchSpace) -> None:
    made = recording(only_maml(space, trials=12), many(12, seed=2))
    played = play(made, in_order(made, reduction_factor=13, grace=100), 0).played["maml"]
    at_grace = [one.points[0].score for one in made.curves["maml"]]
    records = [score == best for score, best in zip(at_grace, accumulate(at_grace, max), strict=True)]
    passed = [event.decision == CONTINUE for event in played.events if event.tasks_seen == 100]
    assert passed == records
    assert 1 < sum(passed) < 12


@pytest.mark.parametrize("seed", range(5))
def test_costs_stay_within_their_bounds_whatever_the_number_of_workers(space: SearchSpace, seed: int) -> None:
    made = recording(only_maml(space, trials=10), many(10, seed))
    for workers in (1, 2, 5, 10, 50):
        replay = play(made, describe(made, {"sampler": "random"}, workers), seed)
        played = replay.played["maml"]
        assert 10 * 100 <= played.tasks <= 10 * 900  # each pays the grace, none more than the budget
        assert replay.time <= played.seconds * (1 + 1e-9)
        assert played.seconds <= replay.time * min(workers, 10) * (1 + 1e-9)
        # until the last trial has started, no worker rests
        assert all(one.seconds <= one.time * workers * (1 + 1e-9) for one in played.incumbents)
        if workers == 1:
            assert replay.time == pytest.approx(played.seconds)


@pytest.mark.parametrize("workers", [1, 4])
def test_algorithms_share_a_clock_and_not_a_rung(space: SearchSpace, workers: int) -> None:
    both = space.model_copy(update={"algorithms": {"maml": {}, "fomaml": {}}})
    poor = tuple(
        one._replace(points=tuple(point._replace(score=(point.score or 0) / 9) for point in one.points))
        for one in many(9, seed=3)
    )
    made = recording(both, many(9, seed=3))
    made = made._replace(curves={**made.curves, "fomaml": poor})
    replay = play(made, in_order(made, workers), 0)
    if workers == 1:  # a ninth of every score changes no rank, so neither learns that the other is there
        alone = recording(only_maml(space), many(9, seed=3))
        decided = [event.decision for event in play(alone, in_order(alone), 0).played["maml"].events]
        for played in replay.played.values():
            assert [event.decision for event in played.events] == decided
    assert [len(played.curves) for played in replay.played.values()] == [9, 9]
    spent = sum(played.seconds for played in replay.played.values())
    assert spent / workers <= replay.time * (1 + 1e-9) <= spent * (1 + 2e-9)


@pytest.mark.parametrize("seed", range(8))
def test_a_moved_rung_is_the_rung_that_trials_run_towards(space: SearchSpace, seed: int) -> None:
    both = space.model_copy(update={"algorithms": {"maml": {}, "fomaml": {}}})
    made = recording(both, many(9, seed))
    made = made._replace(curves={**made.curves, "fomaml": tuple(many(9, seed + 100))})
    moved, meant = (in_order(made, 3, grace=grace) for grace in (120, 100))
    assert moved.rungs == meant.rungs == [100, 300, 900]
    assert play(made, moved, 0) == play(made, meant, 0)


def test_the_best_share_of_all_goes_on_when_the_last_has_arrived(four: Recording) -> None:
    scenario = in_order(four, workers=2, scheduler="top_k", reduction_factor=2)
    replay = play(four, scenario, seed=0)
    played = replay.played["maml"]
    assert [event[:1] + event[2:] for event in played.events] == [
        (1, "a", 100, 0.30, WAIT),
        (1, "b", 100, 0.25, WAIT),
        (2, "c", 100, 0.35, WAIT),
        (2, "d", 100, 0.36, WAIT),
        (10, "d", 900, 0.60, COMPLETE),  # of four two go on, each on a worker of its own
        (10, "c", 900, 0.45, COMPLETE),
    ]
    assert played.endings == [PRUNED, PRUNED, COMPLETE, COMPLETE]
    assert played.incumbents == [
        Incumbent("a", 1, 100, 2),
        Incumbent("c", 2, 300, 4),
        Incumbent("d", 2, 400, 4),
    ]
    assert (played.tasks, played.seconds, replay.time) == (4 * 100 + 2 * 800, 20, 10)


def test_where_all_go_on_nothing_is_saved(four: Recording) -> None:
    played = play(four, in_order(four, scheduler="none"), seed=0).played["maml"]
    assert played.endings == [COMPLETE] * 4
    assert [one.curve for one in played.incumbents] == ["a", "b"]
    assert played.tasks == 4 * 900


def test_a_second_look_takes_its_time_and_is_judged_on_more_tasks(space: SearchSpace) -> None:
    first, more = {"a": (0.5, 0.7), "b": (0.4, 0.7)}, {"a": (0.1, 0.1), "b": (0.8, 0.8)}
    points = {
        name: tuple(
            Point(tasks_seen, tasks_seen / 100, 4.0, sum(scores) / 4, scores) for tasks_seen in (100, 900)
        )
        for name in first
        for scores in [(*first[name], *more[name])]
    }
    curves = [curve(name, [])._replace(points=trial_points) for name, trial_points in points.items()]
    made = recording(only_maml(space, trials=2), curves, (100, 900))
    made = made._replace(is_per_task=True, n_tasks=4)
    scenario = in_order(made, validation_tasks=2, borderline_tasks=4)
    played = play(made, scenario, seed=0).played["maml"]
    # 2 of 4 tasks take 2 of 4 seconds. On them b is worse by 0.05, the noise of the difference is as large;
    # on all of them, on which a was never looked at, its own first ones are compared with a's.
    assert [event[:1] + event[2:] for event in played.events] == [
        (1 + 2, "a", 100, 0.6, CONTINUE),
        (9 + 4, "a", 900, 0.6, COMPLETE),
        (14 + 2, "b", 100, 0.55, REEVALUATE),
        (14 + 4, "b", 100, 0.55, PRUNED),
    ]
    assert (played.tasks, played.seconds) == (1000, 18)


def test_a_second_look_can_turn_a_decision(space: SearchSpace) -> None:
    scores = {
        "a": (0.5, 0.7, 0.1, 0.1),
        "b": (0.4, 0.7, 0.2, 0.1),  # a little worse, in doubt: looked at again, 0.35 in all
        "c": (0.4, 0.75, 0.9, 0.9),  # in doubt too, and better than b on the tasks that both have
    }
    curves = [
        curve(name, [])._replace(
            points=(
                Point(100, 1.0, 4.0, sum(task_scores) / 4, task_scores),
                Point(900, 9.0, 4.0, 0.5, task_scores),
            )
        )
        for name, task_scores in scores.items()
    ]
    made = recording(only_maml(space, trials=3), curves[1:], (100, 900))
    made = made._replace(is_per_task=True, n_tasks=4)
    scenario = in_order(made, trials=2, validation_tasks=2, borderline_tasks=4)
    played = play(made, scenario, seed=0).played["maml"]
    assert [event.decision for event in played.events] == [CONTINUE, COMPLETE, REEVALUATE, CONTINUE, COMPLETE]
    spent = [round(event.time, 6) for event in played.events]
    assert spent == [3, 13, 16, 18, 28]
    # 13 seconds for the first, 3 to the doubt, 2 for the look: then these are spent, and not before
    short = in_order(made, trials=2, validation_tasks=2, borderline_tasks=4, seconds=17.5)
    played = play(made, short, seed=0).played["maml"]
    assert [event.decision for event in played.events] == [CONTINUE, COMPLETE, REEVALUATE, PRUNED]


@pytest.mark.parametrize("workers", [1, 3])
def test_seconds_end_a_search_as_they_end_the_real_one(space: SearchSpace, workers: int) -> None:
    made = recording(only_maml(space, trials=12), many(12, seed=1))
    whole = play(made, in_order(made, workers), seed=0).played["maml"]
    some = play(made, in_order(made, workers, seconds=whole.seconds / 2), seed=0).played["maml"]
    assert some.seconds >= whole.seconds / 2
    # who runs when they are spent ends with its next report
    longest = max(point.seconds for one in made.curves["maml"] for point in one.points)
    assert some.seconds <= whole.seconds / 2 + workers * longest
    assert len(some.curves) < 12
    plenty = play(made, in_order(made, workers, seconds=10 * whole.seconds), seed=0).played["maml"]
    assert plenty == whole


@pytest.mark.parametrize("workers", [1, 3])
def test_steps_in_environments_end_a_search_as_seconds_do(space: SearchSpace, workers: int) -> None:
    made = recording(only_maml(space, trials=12), many(12, seed=1))
    timed = play(made, in_order(made, workers, seconds=40.0), seed=0)
    acting = [
        one._replace(points=tuple(point._replace(steps=64 * point.seconds) for point in one.points))
        for one in made.curves["maml"]
    ]
    counted = recording(only_maml(space, trials=12, unit=STEPS, environment_steps=64 * 40), acting)
    assert play(counted, in_order(counted, workers), seed=0) == timed
    assert play(counted, in_order(counted, workers, seconds=40.0), seed=0) == timed  # in place of the steps
    silent = recording(only_maml(space, trials=12, unit=STEPS, environment_steps=64 * 40), many(12, seed=1))
    with pytest.raises(MetabenchError, match="unit=environment_steps: nothing recorded says"):
        in_order(silent, workers)


def test_of_an_earlier_search_the_best_setting_is_tried_after_the_published_ones(space: SearchSpace) -> None:
    curves = [
        curve("published", [0.5] * 3),
        *(curve(f"{rate}", [0.5] * 3, inner_lr=rate) for rate in (0.02, 0.7)),
    ]
    made = recording(only_maml(space, trials=3), curves)
    earlier = {
        "maml": [{"trial": "x", "sampled": {"inner_lr": 0.65, "inner_steps": 1}, "scores": {"900": 0.9}}]
    }
    played = play(made._replace(earlier=earlier), describe(made, {}), seed=0).played["maml"]
    assert played.curves == ["published", "0.7", "0.02"]
