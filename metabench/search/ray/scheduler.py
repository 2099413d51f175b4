"""Tune's view of the rule: each report is decided by the ledger, and free workers go to trials."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from metabench.core.config import BudgetConfig
from metabench.search.journal.ledger import CONTINUE, WAIT, Ledger
from metabench.search.journal.rule import REEVALUATE, HasRoom, always, decide
from metabench.search.ray.failures import ExcludedNodes, RetryPolicy, in_one_line
from metabench.search.ray.reevaluation import Answers, ReevaluationActor

PROBLEM = "problem"
"""What a trial reports instead of a rung: something is out of order where it runs."""

FATAL = "fatal"
"""What a trial reports instead of a rung: why it would fail in the same way wherever it is started again."""

NOTE = "note"
"""What a trial reports beside a rung."""

WORKER_TIMEOUT_SECONDS = 600.0
"""After which a trial takes whichever worker is free, since the one that starts for it does not come."""


class RungScheduler(FIFOScheduler):
    """Stop a trial when the ledger says so; a trial that reached its full budget is stopped too."""

    def __init__(
        self,
        ledger: Ledger,
        budget: BudgetConfig,
        reevaluation: ReevaluationActor | Answers | None = None,
        retries: RetryPolicy | None = None,
        excluded: ExcludedNodes | None = None,
        say: Callable[[str], None] = lambda text: None,
        has_room: HasRoom = always,
        goes_on: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Decide by the ledger; `retries` of an earlier start of Tune count.

        Args:
            goes_on: take up a trial that has begun to wait, where its worker would be given it next.
        """
        super().__init__()
        self.goes_on = goes_on
        self.has_room = has_room
        self.ledger = ledger
        self.budget = budget
        self.reevaluation = reevaluation
        self.retries = RetryPolicy() if retries is None else retries
        self.excluded = excluded
        self.say = say
        # Tune's trials that wait for a worker -> since when, oldest first.
        self._pending: dict[Any, float] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Note a trial that is to run."""
        self._pending[trial] = time.monotonic()

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Give a free worker to the newest trial, since those before it have workers of their own that start.

        Tune itself gives it to the oldest and throws the worker away that was starting for it: where trials
        are shorter than a worker's start, it never gets a second one. It also looks through all trials.
        """
        self._pending = {trial: since for trial, since in self._pending.items() if trial.status == "PENDING"}
        if not self._pending:
            return None
        oldest, since = next(iter(self._pending.items()))
        is_late = time.monotonic() - since > WORKER_TIMEOUT_SECONDS
        return oldest if is_late else next(reversed(self._pending))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide one report; a trial that meets something out of order is stopped, and handed out again."""
        if PROBLEM in result:
            if self.excluded is not None:
                self.excluded.add(result["node"], result[PROBLEM])
            return TrialScheduler.STOP
        if FATAL in result:
            self.ledger.fail(trial.config["trial"], result[FATAL])
            return TrialScheduler.STOP
        name, report = trial.config["trial"], json.loads(result["report"])
        if NOTE in result:
            self.say(f"{name}: {result[NOTE]}")
        decision = decide(self.ledger, self.budget, name, report, self.has_room)
        if self.reevaluation is not None:
            self.reevaluation.answer(name, report["tasks_seen"], decision == REEVALUATE)
        stays = decision in (CONTINUE, REEVALUATE) or (decision == WAIT and self.goes_on(name))
        return TrialScheduler.CONTINUE if stays else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Note a trial that ended although nobody stopped it."""
        if not {PROBLEM, FATAL} & result.keys():
            self.failed(trial.config["trial"], "ended before its full budget without being stopped")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note a failure; Tune asks what to do with the trial's place only after this."""
        path = trial.error_file
        text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else "unknown error"
        self.failed(trial.config["trial"], text[-4000:].strip())

    def failed(self, name: str, error: str) -> None:
        """Note a failure, and write down that the trial failed for good where it was one too many."""
        trial = self.ledger.trials[name]
        if trial.status is not None or trial.is_waiting:
            return
        if self.retries.is_allowed(name, trial.tasks_seen):
            start = f"{trial.tasks_seen} tasks" if trial.tasks_seen else "the beginning"
            self.say(f"{name} starts again from {start}: {in_one_line(error)}")
        else:
            self.ledger.fail(name, error)
