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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metabench.core import Objective
from metabench.core.config import BudgetConfig, SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import CONTINUE, FAILED, PRUNED, Ledger, Trial, ranked
from metabench.search.propose.searcher import FairSearcher, Study
from metabench.search.ray.asha import AGAIN, SCORES, choose_top, judge
from metabench.search.replay.curves import Curve, Point, Recording
from metabench.search.replay.histories import Event, Incumbent, Played, Replay
from metabench.search.replay.replayed import Deck, RecordedStudy
from metabench.search.replay.scenario import Scenario
from metabench.storage import files

CENSORED = "censored"
"""What became of a trial that would have gone on further than its curve was recorded."""


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


def play(recording: Recording, scenario: Scenario, seed: int) -> Replay:
    """Replay one search, whose proposals follow from its seed."""
    return _Player(recording, scenario, seed).play()


class Leg(NamedTuple):
    """The way of a setting from one rung to the next."""

    tasks_seen: int  # at its end
    seconds: float  # of training and validation
    score: float | None  # over the validation tasks; None: it diverged on the way
    per_task: Sequence[float]  # those of a second look among them; empty where they were not kept
    look_seconds: float  # what a second look would take


def legs(curve: Curve, budget: BudgetConfig, n_recorded: int) -> list[Leg]:
    """Return the ways to a budget's rungs, as far as they were recorded.

    Fewer validation tasks are the first ones, and take their share of the seconds of all.
    """
    found: list[Leg] = []
    before = 0.0
    n_tasks, more = budget.validation_tasks, budget.borderline_tasks or budget.validation_tasks
    for rung in spaces.rungs(budget):
        reached = [point for point in curve.points if point.tasks_seen <= rung]
        point = reached[-1] if reached else None
        if point is None or (point.tasks_seen < rung and point.score is not None):
            break
        seconds = [point.val_seconds * n / n_recorded for n in (n_tasks, more)]
        way, look = point.seconds - before + seconds[0], seconds[1] - seconds[0]
        score = _mean_of_first(point, n_tasks, n_recorded)
        found.append(Leg(point.tasks_seen, way, score, point.per_task[:more], look))
        before = point.seconds
        if score is None:
            break
    return found


def _mean_of_first(point: Point, n_tasks: int, n_recorded: int) -> float | None:
    if point.score is None or n_tasks == n_recorded:
        return point.score
    return sum(point.per_task[:n_tasks]) / n_tasks


@dataclass
class _Run:
    """A trial on a worker."""

    trial_id: str
    trial: Trial
    curve: Curve
    legs: list[Leg]
    done: int  # legs
    spent: float  # seconds, up to its last report
    is_second: bool = False  # the present report is made again, after a second look
    started: float = 0.0  # the way to it

    @property
    def seconds(self) -> float:
        """Return what the present report takes."""
        leg = self.legs[self.done]
        return leg.look_seconds if self.is_second else leg.seconds


class _Player:
    """The workers and their clock."""

    def __init__(self, recording: Recording, scenario: Scenario, seed: int) -> None:
        self.recording = recording
        self.scenario = scenario
        self.budget = scenario.space.budget
        self.seed = seed
        self.ledger = Memory(recording.objective)
        self.decks = {name: Deck(list(recording.curves[name])) for name in scenario.space.algorithms}
        self.played = {name: Played() for name in scenario.space.algorithms}
        self.censored: set[str] = set()
        self.now = 0.0
        self.order = itertools.count()  # of reports at the same time, the first to set out is heard first
        self.running: list[tuple[float, int, _Run]] = []  # a heap, by the time of the next report
        self.searcher = self._searcher()

    def _searcher(self) -> FairSearcher:
        def study(space: SearchSpace, algorithm: str, seed: int, known: Any) -> Study:
            is_in_order = self.scenario.is_in_order
            deck = self.decks[algorithm]
            return RecordedStudy(space, algorithm, seed, known, deck=deck, is_in_order=is_in_order)

        return FairSearcher(self.scenario.space, self.ledger, self.seed, self.recording.known, study)

    def play(self) -> Replay:
        """Go through the rounds of a search: all trials, then those that have waited and were chosen."""
        self._work()
        if self.budget.scheduler == "top_k":
            space = self.scenario.space
            for algorithm in space.algorithms:
                choose_top(self.ledger, self.budget, algorithm, spaces.n_trials(space, algorithm))
                self._lead(algorithm)
            self.searcher = self._searcher()
            self._work()
        for algorithm, played in self.played.items():
            deck = self.decks[algorithm]
            played.curves = [curve.name for curve in deck.played]
            played.distance = statistics.fmean(deck.distances) if deck.distances else 0.0
            played.endings = [
                CENSORED if trial.name in self.censored else str(trial.status)
                for trial in self.ledger.of(algorithm)
            ]
        return Replay(self.seed, self.played, self.now)

    def _work(self) -> None:
        """Let every worker work until nothing is left."""
        idle = self.scenario.workers
        while True:
            while idle and self._start_next():
                idle -= 1
            if not self.running:
                return
            self.now, _, run = heapq.heappop(self.running)
            decision = self._arrive(run)
            if decision in (AGAIN, CONTINUE):
                run.is_second = decision == AGAIN
                self._go(run)
            else:
                self._end(run)
                idle += 1

    def _start_next(self) -> bool:
        """Give a worker the next trial; return whether there was one to start by now."""
        while True:
            trial_id = str(next(self.order))
            config = self.searcher.suggest(trial_id)
            if not isinstance(config, dict):
                return False
            trial = self.ledger.trials[config["trial"]]
            curve = self.decks[trial.algorithm].played[trial.number]
            ways = legs(curve, self.budget, self.recording.n_tasks)
            done = sum(leg.tasks_seen <= trial.tasks_seen for leg in ways)
            spent = trial.reports[-1]["seconds"] if trial.reports else 0.0
            run = _Run(trial_id, trial, curve, ways, done, spent)
            if done < len(ways):
                self._go(run)
                return True
            self._note(run, trial.tasks_seen, trial.score, self._stop_short(run))
            self._end(run)

    def _go(self, run: _Run) -> None:
        run.started = self.now
        heapq.heappush(self.running, (self.now + run.seconds, next(self.order), run))

    def _arrive(self, run: _Run) -> str:
        """Report, and let the rule decide."""
        leg, played = run.legs[run.done], self.played[run.trial.algorithm]
        played.tasks += 0 if run.is_second else leg.tasks_seen - run.trial.tasks_seen
        played.seconds += run.seconds
        run.spent += run.seconds
        report = _report(leg, self.budget, run.spent, run.is_second)
        self.ledger.scores[run.trial.name, leg.tasks_seen] = report[SCORES]
        decision = judge(self.ledger, self.budget, run.trial.name, report)
        run.done += decision != AGAIN
        if decision == CONTINUE and run.done == len(run.legs):
            decision = self._stop_short(run)
        self._note(run, leg.tasks_seen, leg.score, decision)
        return decision

    def _note(self, run: _Run, tasks_seen: int, score: float | None, decision: str) -> None:
        event = Event(self.now, run.trial.name, run.curve.name, tasks_seen, score, decision)
        self.played[run.trial.algorithm].events.append(event)

    def _stop_short(self, run: _Run) -> str:
        """End a trial where its curve ends: as a crash, or as stopped."""
        name = run.trial.name
        if run.curve.ending == "failed" or not run.legs:
            self.ledger.fail(name, "as it was recorded")
        else:
            self.ledger.settle(name, PRUNED, {})
        if run.curve.ending == "failed":
            return FAILED
        self.censored.add(name)
        return CENSORED

    def _end(self, run: _Run) -> None:
        """Tell the study, and see who leads."""
        self.searcher.on_trial_complete(run.trial_id)
        self._lead(run.trial.algorithm)

    def _lead(self, algorithm: str) -> None:
        best = ranked(self.ledger.of(algorithm))[:1]
        if not best:
            return
        played = self.played[algorithm]
        curve = self.decks[algorithm].played[best[0].number].name
        if not played.incumbents or played.incumbents[-1].curve != curve:
            ahead = (self.now - one.started for *_, one in self.running if one.trial.algorithm == algorithm)
            spent = played.seconds + sum(ahead)
            played.incumbents.append(Incumbent(curve, self.now, played.tasks, spent))


def _report(leg: Leg, budget: BudgetConfig, seconds: float, is_second: bool) -> dict[str, Any]:
    """Make the report that a worker would make."""
    n_tasks = budget.borderline_tasks if is_second else budget.validation_tasks
    scores = [round(score, 6) for score in leg.per_task[:n_tasks]]
    unknown = dict.fromkeys(("val_accuracy", "val_ci", "val_loss", "train_accuracy", "train_loss"))
    return {
        "tasks_seen": leg.tasks_seen,
        "finite": leg.score is not None,
        "val_score": leg.score,
        SCORES: scores,
        **({"borderline_score": statistics.fmean(scores)} if is_second else {}),
        **unknown,
        "seconds": seconds,
        "peak_memory": 0,
        "logs": {},
    }
