"""What Tune is told of a trial: by the ledger where it reports, by the retries where its worker dies."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import (
    COMPLETE,
    CONTINUE,
    DIVERGED,
    FAILED,
    PRUNED,
    RUNNING,
    WAIT,
    WAITING,
    Ledger,
)
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray.failures import MAX_FAILURES
from metabench.search.ray.scheduler import FATAL, RungScheduler
from tests.search.played import make_report


def test_the_scheduler_stops_what_the_ledger_ends_and_nan_never_goes_on(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger = Ledger(tmp_path, keep=2)
    scheduler = RungScheduler(ledger, space.budget)
    names = [ledger.propose("maml", {}, {}, False, 0).name for _ in range(3)]

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


def test_a_trial_that_gets_on_is_tried_again_for_ever_and_one_that_does_not_fails(
    tmp_path: Path, space: SearchSpace
) -> None:
    ledger, messages = Ledger(tmp_path, keep=1), list[str]()
    name = ledger.propose("maml", {}, {}, True, 0).name
    scheduler = RungScheduler(ledger, space.budget, say=messages.append)
    for rung in (0, 100, 300, 900, 2700):
        if rung:
            ledger.record(name, make_report(rung, 0.5), CONTINUE, {})
        for _ in range(MAX_FAILURES):
            scheduler.failed(name, "The actor died unexpectedly\na page of advice")
    assert ledger.trials[name].status is None
    assert len(messages) == 5 * MAX_FAILURES
    assert messages[0] == f"{name} starts again from the beginning: its worker died"
    assert messages[-1] == f"{name} starts again from 2700 tasks: its worker died"
    scheduler.failed(name, "Traceback\nValueError: broken")
    assert ledger.trials[name].status == FAILED
    assert ledger.trials[name].error == "Traceback\nValueError: broken"
    scheduler.failed(name, "and again")
    assert ledger.trials[name].error == "Traceback\nValueError: broken"


def test_what_would_fail_again_anywhere_is_tried_once(tmp_path: Path, space: SearchSpace) -> None:
    ledger = Ledger(tmp_path, keep=1)
    name = ledger.propose("maml", {}, {}, True, 0).name
    scheduler = RungScheduler(ledger, space.budget)
    trial, report = SimpleNamespace(config={"trial": name}), {"tasks_seen": 0, FATAL: "out of memory: 1 TB"}
    assert scheduler.on_trial_result(None, trial, report) == TrialScheduler.STOP
    scheduler.on_trial_complete(None, trial, report)
    assert (ledger.trials[name].status, ledger.trials[name].error) == (FAILED, "out of memory: 1 TB")


def test_a_trial_that_waits_for_the_others_has_not_failed(tmp_path: Path, space: SearchSpace) -> None:
    ledger, messages = Ledger(tmp_path, keep=1), list[str]()
    name = ledger.propose("maml", {}, {}, True, 0).name
    ledger.record(name, make_report(100, 0.5), WAIT, {})
    scheduler = RungScheduler(ledger, space.budget, say=messages.append)
    for _ in range(MAX_FAILURES + 1):
        scheduler.failed(name, "ended")
    assert (ledger.trials[name].status, messages) == (None, [])


def test_a_trial_that_its_worker_would_be_given_next_stays_there(tmp_path: Path, space: SearchSpace) -> None:
    budget = space.budget.model_copy(update={"scheduler": "freeze_thaw"})
    only: dict[str, Any] = {"shared": {}, "algorithms": {"maml": {"inner_steps": 1}}, "budget": budget}
    searcher = FairSearcher(space.model_copy(update=only), Ledger(tmp_path, keep=1), seed=0)
    scheduler = RungScheduler(searcher.ledger, budget, goes_on=searcher.goes_on)
    alone = RungScheduler(searcher.ledger, budget)
    config = searcher.suggest("0")
    trial, tune_trial = searcher.ledger.trials[config["trial"]], SimpleNamespace(config=config)

    def ask(asked: RungScheduler, rung: int) -> tuple[str, str]:
        answer = asked.on_trial_result(None, tune_trial, {"report": json.dumps(make_report(rung, 0.5))})
        return answer, trial.state

    assert ask(scheduler, 100) == (TrialScheduler.CONTINUE, RUNNING)
    assert ask(alone, 300) == (TrialScheduler.STOP, WAITING)
    assert searcher.goes_on(trial.name)
    assert not searcher.goes_on(trial.name), "it runs"
    assert ask(scheduler, 900) == (TrialScheduler.STOP, COMPLETE)
