"""What a trial costs the driver: the same work and the same writes, however many trials there were before."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial as TuneTrial

import metabench
from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import Ledger
from metabench.search.progress import watch
from metabench.search.progress.watch import Watch
from metabench.search.propose.searcher import FairSearcher
from metabench.search.ray import scheduler as scheduling
from metabench.search.ray.experiment import Endings
from metabench.search.ray.scheduler import RungScheduler
from tests.search.played import make_report

PACKAGE = str(Path(metabench.__file__).parent)


def run_trials(folder: Path, space: SearchSpace) -> Iterator[int]:
    """Take one trial after another through all that the driver does; yield how often each reported."""
    ledger = Ledger(folder, keep=2)
    searcher = FairSearcher(space, ledger, seed=0)
    scheduler, endings = (
        RungScheduler(ledger, space.budget),
        Endings(ledger, Watch(folder, space, quiet=True)),
    )
    while isinstance(config := searcher.suggest("only"), dict):
        trial = SimpleNamespace(config=config, metric_analysis={}, metric_n_steps={})
        number = ledger.trials[config["trial"]].number
        endings.on_trial_start()
        for rung in searcher.rungs:
            # As good as those before and after it in turn, so that the rule stops some at each rung.
            result = {"report": json.dumps(make_report(rung, (number * 37 % 100) / 100))}
            answer = scheduler.on_trial_result(None, trial, result)
            endings.on_trial_result()
            endings.on_step_begin(2, [])
            if answer == RungScheduler.STOP:
                break
        n_reports = len(ledger.trials[config["trial"]].reports)
        searcher.hand_back("only")
        endings.on_trial_complete(trial=trial)
        yield n_reports


class Lines:
    """Counts the lines of this package that run, each pass of a loop anew."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Follow a function if it is one of the package's."""
        return self.count_line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def count_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count one line."""
        self.count += event == "line"
        return self.count_line


def lines_of_trials(folder: Path, space: SearchSpace, often: int) -> list[tuple[int, int]]:
    """Return how often each of some trials reported, and how many lines it took."""
    counts, lines, before = [], Lines(), 0
    trials = run_trials(folder, space)
    outer = sys.gettrace()
    try:
        for _ in range(often):
            sys.settrace(lines)
            n_reports = next(trials)
            sys.settrace(outer)
            counts.append((n_reports, lines.count - before))
            before = lines.count
    finally:
        sys.settrace(outer)
    return counts


@pytest.fixture
def alone(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    """Return a space of one algorithm, proposed at random, of which the clock has nothing shown."""
    monkeypatch.setattr(watch, "SNAPSHOT_SECONDS", math.inf)
    budget = space.budget.model_copy(update={"sampler": "random", "trials": 100})
    return space.model_copy(update={"budget": budget, "algorithms": {"fomaml": {}}})


def test_a_trial_takes_the_same_lines_however_many_there_were_before(
    tmp_path: Path, alone: SearchSpace
) -> None:
    everyone = alone.model_copy(update={"budget": alone.budget.model_copy(update={"scheduler": "none"})})
    lines = [count for _, count in lines_of_trials(tmp_path, everyone, 80)]
    assert max(lines[60:]) == max(lines[10:30])
    # At a rung a trial is compared with each that arrived there, in five lines.
    stopped = [count for n_reports, count in lines_of_trials(tmp_path / "asha", alone, 80) if n_reports == 1]
    assert stopped[-1] - stopped[0] <= 5 * 80


def test_a_trial_is_written_down_once_when_proposed_at_each_report_and_at_its_end(
    tmp_path: Path, alone: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = 0

    def count(handle: int) -> None:
        nonlocal synced
        synced += 1

    monkeypatch.setattr(os, "fsync", count)
    before, counts = 0, []
    for n_reports in run_trials(tmp_path, alone):
        counts.append((n_reports, synced - before))
        before = synced
    assert len(counts) == 100
    assert {n_reports for n_reports, _ in counts} == {1, 2, 3}
    assert all(writes == n_reports + 2 for n_reports, writes in counts)


def test_a_free_worker_goes_to_the_newest_trial_until_an_older_one_has_waited_long(
    tmp_path: Path, space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = RungScheduler(Ledger(tmp_path, 2), space.budget)
    assert scheduler.choose_trial_to_run(None) is None
    trials = [TuneTrial("played", stub=True) for _ in range(3)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    assert scheduler.choose_trial_to_run(None) is trials[2]
    trials[2].set_status(TuneTrial.RUNNING)
    assert scheduler.choose_trial_to_run(None) is trials[1]
    monkeypatch.setattr(scheduling, "WORKER_TIMEOUT_SECONDS", -1.0)
    assert scheduler.choose_trial_to_run(None) is trials[0]
    for trial in trials[:2]:
        trial.set_status(TuneTrial.TERMINATED)
    assert scheduler.choose_trial_to_run(None) is None
