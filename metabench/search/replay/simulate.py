"""A search replayed from recorded learning curves: the real rule and the real searcher on a simulated clock.

What is simulated is only the training: a report takes the seconds, and scores the accuracy, that were
recorded. So a replay tells in seconds what another reduction factor, grace, number of trials, validation
tasks or workers would have found and cost, and it is the same each time.
"""

from __future__ import annotations

import heapq
import itertools
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench.core import Objective
from metabench.core.config import BudgetConfig
from metabench.core.control import ENVIRONMENT_STEPS
from metabench.search import space as spaces
from metabench.search.journal import freeze
from metabench.search.journal.ledger import CONTINUE, FAILED, PROPOSED, PRUNED, WAIT, Ledger, Trial, incumbent
from metabench.search.journal.rule import REEVALUATE, SCORES, decide
from metabench.search.propose.searcher import FairSearcher
from metabench.search.replay.curves import Curve, Recording
from metabench.search.replay.replayed import RecordedStudy
from metabench.search.replay.scenario import Scenario
from metabench.storage import files

CENSORED = "censored"
"""What became of a trial that would have gone on further than its curve was recorded."""


class Event(NamedTuple):
    """A report and what was decided on it."""

    time: float  # on the clock, in seconds since the start
    trial: str
    curve: str
    tasks_seen: int
    score: float | None
    decision: str


class Incumbent(NamedTuple):
    """Who leads from some moment on, and what had been spent on its algorithm by then."""

    curve: str
    time: float
    tasks: int
    seconds: float  # of all workers, trials still running included


class Memory(Ledger):
    """A ledger that writes nothing; a replay is over before anybody could resume it."""

    def __init__(self, objective: Objective) -> None:
        """Start empty."""
        with tempfile.TemporaryDirectory() as empty:
            super().__init__(Path(empty), 0, objective)
        self.scores: dict[tuple[str, int], list[float]] = {}  # what trials keep in files of their own

    def task_scores(self, name: str, tasks_seen: int) -> list[float]:
        """Return the scores of single tasks that a trial reported at a rung."""
        return self.scores.get((name, tasks_seen), [])

    def _add(self, event: dict[str, Any]) -> Trial:
        return self._apply(files.plain(event))

    def _finish(self, trial: Trial) -> None:
        pass


class Leg(NamedTuple):
    """The way of a setting from one rung to the next."""

    tasks_seen: int  # at its end
    seconds: float  # of training and validation
    score: float | None  # over the validation tasks; None: it diverged on the way
    per_task: Sequence[float]  # those of a second look among them; empty where they were not kept
    look_seconds: float  # what a second look would take
    steps: float = 0.0  # in environments, from the beginning


def legs(curve: Curve, budget: BudgetConfig, n_recorded: int) -> list[Leg]:
    """Return the ways to a budget's rungs, as far as they were recorded.

    Fewer validation tasks are the first ones, and take their share of the seconds of all.
    """
    ways: list[Leg] = []
    before = 0.0
    n_tasks, more = budget.validation_tasks, budget.borderline_tasks or budget.validation_tasks
    for rung in spaces.rungs(budget):
        point = next((point for point in reversed(curve.points) if point.tasks_seen <= rung), None)
        if point is None or (point.tasks_seen < rung and point.score is not None):
            break
        seconds, looked = (point.val_seconds * n / n_recorded for n in (n_tasks, more))
        score = point.score
        if score is not None and n_tasks != n_recorded:
            score = sum(point.per_task[:n_tasks]) / n_tasks
        way = point.seconds - before + seconds
        ways.append(Leg(point.tasks_seen, way, score, point.per_task[:more], looked - seconds, point.steps))
        before = point.seconds
        if score is None:
            break
    return ways


class Running(NamedTuple):
    """A trial on a worker."""

    time: float  # of its next report
    order: int  # of reports at the same time, the first to set out is heard first
    started: float  # the way to it
    trial_id: str
    trial: Trial
    reports: Iterator[float]


def play(recording: Recording, scenario: Scenario, seed: int) -> Replay:
    """Replay one search, whose proposals follow from its seed."""
    replay = Replay(recording, scenario, seed)
    replay.run()
    return replay


class Replay:
    """One simulated search: its workers and their clock, and what came of each algorithm."""

    def __init__(self, recording: Recording, scenario: Scenario, seed: int) -> None:
        """Set everything up, and run nothing."""

        def study(space: Any, algorithm: str, *args: Any) -> RecordedStudy:
            curves = recording.curves[algorithm]
            return RecordedStudy(space, algorithm, *args, curves=curves, is_in_order=scenario.is_in_order)

        self.recording, self.scenario, self.seed = recording, scenario, seed
        self.budget = scenario.space.budget
        self.ledger = Memory(recording.objective)
        self._study = study
        self.searcher = FairSearcher(scenario.space, self.ledger, seed, recording.earlier, study)
        self.studies: Mapping[str, Any] = self.searcher.studies
        self.time = 0.0  # in the end, when the last worker had finished
        self.seconds: dict[str, float] = defaultdict(float)  # by algorithm, of all workers together
        self.events: dict[str, list[Event]] = defaultdict(list)  # by algorithm
        self.incumbents: dict[str, list[Incumbent]] = defaultdict(list)  # by algorithm
        self._censored: set[str] = set()
        self._order = itertools.count()
        self._running: list[Running] = []  # a heap

    def run(self) -> None:
        """Play all trials, and stop those that wait in the end."""
        self._work()
        self.searcher.finish()
        for algorithm in self.studies:
            self._lead(algorithm)

    def curve_of(self, trial: Trial) -> Curve:
        """Return the curve that played a trial."""
        curve: Curve = self.studies[trial.algorithm].played[trial.number]
        return curve

    def ending_of(self, trial: Trial) -> str:
        """Return what became of a trial."""
        return CENSORED if trial.name in self._censored else str(trial.status)

    def _work(self) -> None:
        """Let every worker work until nothing is left."""
        idle = self.scenario.workers
        while True:
            while idle and self._start_next():
                idle -= 1
            if not self._running:
                return
            first = heapq.heappop(self._running)
            self.time = first.time
            idle += not self._go_on(first.trial_id, first.trial, first.reports)

    def _start_next(self) -> bool:
        """Give a worker the next trial; return whether there was one to start by now."""
        while isinstance(config := self.searcher.suggest(trial_id := str(next(self._order))), dict):
            trial = self.ledger.trials[config["trial"]]
            if self._go_on(trial_id, trial, self._reports(trial)):
                return True
        return False

    def _go_on(self, trial_id: str, trial: Trial, reports: Iterator[float]) -> bool:
        """Let a trial set out for its next report; where it has ended, tell the study and see who leads."""
        seconds = next(reports, None)
        if seconds is None:
            self.searcher.hand_back(trial_id)
            self._lead(trial.algorithm)
            return False
        run = Running(self.time + seconds, next(self._order), self.time, trial_id, trial, reports)
        heapq.heappush(self._running, run)
        return True

    def _reports(self, trial: Trial) -> Iterator[float]:
        """Yield the seconds to each report of a trial, and make the report when they have passed."""
        algorithm, curve = trial.algorithm, self.curve_of(trial)
        ways = legs(curve, self.budget, self.recording.n_tasks)
        ahead = [leg for leg in ways if leg.tasks_seen > trial.tasks_seen]
        spent = trial.seconds

        def note(tasks_seen: int, score: float | None, decision: str) -> None:
            event = Event(self.time, trial.name, curve.name, tasks_seen, score, decision)
            self.events[algorithm].append(event)

        if not ahead:
            note(trial.tasks_seen, trial.score, self._cut_off(trial, curve))
        for leg in ahead:
            for is_second, seconds in enumerate((leg.seconds, leg.look_seconds)):
                yield seconds
                self.seconds[algorithm] += seconds
                spent += seconds
                decision = self._judge(trial.name, leg, spent, bool(is_second))
                if decision == CONTINUE and leg is ahead[-1]:
                    decision = self._cut_off(trial, curve)
                note(leg.tasks_seen, leg.score, decision)
                if freeze.is_on(self.budget):
                    self._lead(algorithm)  # who is named may change with any report
                if decision != REEVALUATE:
                    break
            if decision != CONTINUE:
                return

    def _judge(self, name: str, leg: Leg, seconds: float, is_second: bool) -> str:
        """Report as a worker would, and let the rule decide."""
        n_tasks = self.budget.borderline_tasks if is_second else self.budget.validation_tasks
        scores = [round(score, 6) for score in leg.per_task[:n_tasks]]
        self.ledger.scores[name, leg.tasks_seen] = scores
        report = {
            "tasks_seen": leg.tasks_seen,
            "finite": leg.score is not None,
            "val_score": leg.score,
            "seconds": seconds,
            "logs": {ENVIRONMENT_STEPS: leg.steps},
            SCORES: scores,
        }
        if is_second:
            report["borderline_score"] = statistics.fmean(scores)
        decision = decide(self.ledger, self.budget, name, report)
        return CONTINUE if decision == WAIT and self.searcher.goes_on(name) else decision

    def _cut_off(self, trial: Trial, curve: Curve) -> str:
        """End a trial where its curve ends: as a crash, or as stopped."""
        if curve.status == FAILED or not trial.reports:
            self.ledger.fail(trial.name, "as it was recorded")
        else:
            self.ledger.settle(trial.name, PRUNED, {})
        if curve.status == FAILED:
            return FAILED
        self._censored.add(trial.name)
        return CENSORED

    def _lead(self, algorithm: str) -> None:
        """Note who leads an algorithm from now on."""
        judged = {name for what, name, _ in self.ledger.history if what != PROPOSED}
        trials = (trial for trial in self.ledger.of(algorithm) if trial.name in judged)
        best = incumbent(trials)
        if freeze.is_on(self.budget):
            best = freeze.incumbent(self.ledger, self.studies[algorithm].its, self.budget)
        if best is not None:
            curve, incumbents = self.curve_of(best).name, self.incumbents[algorithm]
            if not incumbents or incumbents[-1].curve != curve:
                ahead = (self.time - one.started for one in self._running if one.trial.algorithm == algorithm)
                spent = self.seconds[algorithm] + sum(ahead)
                incumbents.append(Incumbent(curve, self.time, self.ledger.tasks(algorithm), spent))
