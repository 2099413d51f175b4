"""Asynchronous successive halving with one rung table an algorithm: who may go on, and Tune's view of it.

The rule. Rungs stand at grace, grace * r, grace * r^2, ... tasks seen below the full budget, for a reduction
factor r. A trial arrives at a rung with its report made exactly there, and is compared with the trials of
its algorithm that have arrived there before it. Of n, itself included, max(1, floor(n / r)) go on: it goes
on if fewer than that many of the others are better. So the first to arrive goes on, a tie goes on, and a
decision is final: what arrives later takes nothing back, who was stopped is not started again, and a rung is
never filled from a higher one. A score that is not a finite number ends its trial and enters no table. At
the full budget there is nothing to decide: who gets there is complete.

Where a decision is within the noise of the validation tasks, and the budget has `borderline_tasks`, the
trial is validated on more of them first. It is then compared with each of the others on the tasks that both
have, since a mean over other tasks may be better for easier ones; and only with those that had arrived when
it did, so that the decision is the same whatever happens while it is looked at again.

Where seconds are the budget, a trial is stopped at the report with which its algorithm's are spent.

Two controls: `none` lets everybody go on, and `top_k` has one rung, at grace, where all wait until the last
has arrived, and are then judged as above, each among all the others.

Written by ourselves because Ray's ASHA forgets its rungs on restore (ray#30838), fills lower rungs with later
scores and lets NaN run on. Here a rung table is no state at all: it is read from the ledger, where every
report stands exactly once, at the rung it was made for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from metabench import stats
from metabench.core.config import BudgetConfig
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, CONTINUE, DIVERGED, PRUNED, WAIT, Arrival, Ledger, Trial
from metabench.search.ray.failures import Attempts, Avoided
from metabench.search.ray.reevaluation import Answers, Desk

AGAIN = "again"
"""No decision yet: the trial is to be validated on more tasks, and to report once more."""

SCORES = "val_scores"
"""A report's scores of single tasks: decided with, and left in the trial's own reports."""


PROBLEM = "problem"
"""What a trial tells instead of a report: something is out of order where it runs."""

NOTE = "note"
"""What a trial tells beside a report."""


PATIENCE = 600.0
"""Seconds after which a trial takes whichever worker is free, since its own does not come."""


class Standing(NamedTuple):
    """Where a score stands among those that arrived at its rung before it."""

    rank: int  # 1 is the best; those that tie share it
    arrived: int  # itself included
    # The other that decides: it would have to be passed, or would have to pass, for the other decision.
    against: str | None
    cutoff: float | None  # the score of that other
    margin: float | None  # the score minus the cut-off: who has a negative one is stopped

    @property
    def goes_on(self) -> bool:
        """Tell whether it is among the best."""
        return self.margin is None or self.margin >= 0


def standing(own: Arrival, others: Sequence[Arrival], reduction_factor: int) -> Standing:
    """Place a trial among those that have arrived at its rung, in the order of their arrival."""
    arrived = len(others) + 1
    pairs = [_on_common_tasks(own, other) for other in others]
    rank = 1 + sum(score < theirs for score, theirs in pairs)
    if not others:
        return Standing(rank, arrived, None, None, None)
    # Of n the best k go on, and with itself out of n its k-th best opponent has the first place that is lost.
    kept = max(1, arrived // reduction_factor)
    margins = [score - theirs for score, theirs in pairs]
    decisive = sorted(range(len(others)), key=margins.__getitem__)[kept - 1]
    return Standing(rank, arrived, others[decisive].trial, pairs[decisive][1], margins[decisive])


def _on_common_tasks(own: Arrival, other: Arrival) -> tuple[float, float]:
    if own.more is None or other.more is None:
        return own.score, other.score
    return own.more, other.more


def judge(ledger: Ledger, budget: BudgetConfig, name: str, report: dict[str, Any]) -> str:
    """Decide a trial's report once and write it down; a report seen before gets the decision it got then."""
    trial = ledger.trials[name]
    seen = report["tasks_seen"]
    if seen in trial.decisions:
        return trial.decisions[seen]
    own = Arrival(name, report["val_score"], report.get("borderline_score"))
    rungs = spaces.rungs(budget)
    if report["finite"] and seen not in rungs:
        raise ValueError(f"{name}: reports at {seen} tasks, beside the rungs {rungs}")
    # A trial that diverges reports where it stands, short of the rung that it ran towards.
    basis: dict[str, Any] = {"rung": sum(rung < seen for rung in rungs)}
    if not report["finite"] or own.score is None or not math.isfinite(own.score):
        decision = DIVERGED
    elif seen >= budget.tasks:
        decision = COMPLETE
    elif _is_spent(ledger, budget, trial, report):
        decision, basis["is_spent"] = PRUNED, True
    elif budget.scheduler != "asha":
        decision = WAIT if budget.scheduler == "top_k" and basis["rung"] == 0 else CONTINUE
    elif seen in trial.doubts and own.more is None:
        return AGAIN
    else:
        others = ledger.rung(trial.algorithm, seen)[: trial.doubts.get(seen)]
        found = standing(own, others, budget.reduction_factor)
        decision = CONTINUE if found.goes_on else PRUNED
        basis |= _basis(ledger, seen, found, report.get(SCORES, ()))
        if basis["doubtful"] and budget.borderline_tasks is not None and seen not in trial.doubts:
            ledger.doubt(name, seen, len(others), basis)
            return AGAIN
    short = {key: report[key] for key in report if key != SCORES}
    ledger.record(name, {**short, "val_tasks": len(report.get(SCORES, ()))}, decision, basis)
    return decision


def _is_spent(ledger: Ledger, budget: BudgetConfig, trial: Trial, report: dict[str, Any]) -> bool:
    """Tell whether an algorithm's seconds are spent with this report: then none of its trials goes on."""
    if budget.seconds is None:
        return False
    before = trial.reports[-1]["seconds"] if trial.reports else 0.0
    spent: bool = ledger.seconds(trial.algorithm) + report["seconds"] - before >= budget.seconds
    return spent


def choose_top(ledger: Ledger, budget: BudgetConfig, algorithm: str, n_trials: int) -> list[str]:
    """Decide on an algorithm's trials that wait, once all have arrived or ended; return who was stopped."""
    trials = ledger.of(algorithm)
    if len(trials) < n_trials or any(trial.status is None and not trial.reports for trial in trials):
        return []
    stopped = []
    for trial in [trial for trial in trials if trial.is_waiting]:  # some: a kill may have come in between
        seen = trial.tasks_seen
        arrived = ledger.rung(algorithm, seen)
        (own,) = (arrival for arrival in arrived if arrival.trial == trial.name)
        others = [arrival for arrival in arrived if arrival.trial != trial.name]
        found = standing(own, others, budget.reduction_factor)
        basis = {"rung": 0, **_basis(ledger, seen, found, ledger.task_scores(trial.name, seen))}
        ledger.settle(trial.name, CONTINUE if found.goes_on else PRUNED, basis)
        stopped += [] if found.goes_on else [trial.name]
    return stopped


def _basis(ledger: Ledger, seen: int, found: Standing, scores: Sequence[float]) -> dict[str, Any]:
    """Say what a decision rests on, and whether the tasks were enough for it."""
    basis = {
        **found._asdict(),
        "tasks": None,
        "paired_se": None,
        "doubtful": False,
    }
    if found.against is None or found.margin is None:
        return basis
    theirs = ledger.task_scores(found.against, seen)
    n_tasks = min(len(scores), len(theirs))
    if n_tasks < 2:
        return basis  # its reports are gone, and with them what the noise could be told from
    noise = stats.paired_se(scores[:n_tasks], theirs[:n_tasks])
    return basis | {"tasks": n_tasks, "paired_se": noise, "doubtful": abs(found.margin) < noise}


def scalars(basis: Mapping[str, Any], sign: int) -> dict[str, float]:
    """Name what a decision rests on as TensorBoard shows it; the cut-off as accuracy or error."""
    known = {key: basis.get(key) for key in ("rung", "cutoff", "margin", "rank")}
    return {
        f"asha/{key}": float(value) * (sign if key == "cutoff" else 1)
        for key, value in known.items()
        if value is not None
    }


class RungScheduler(FIFOScheduler):
    """Stop a trial when the ledger says so; a trial that reached its full budget is stopped too."""

    def __init__(
        self,
        ledger: Ledger,
        budget: BudgetConfig,
        desk: Desk | Answers | None = None,
        attempts: Attempts | None = None,
        avoided: Avoided | None = None,
    ) -> None:
        """Judge by the ledger; trials ask at the desk whether they are to be looked at again."""
        super().__init__()
        self.ledger = ledger
        self.budget = budget
        self.desk = desk
        self.attempts = attempts
        self.avoided = avoided
        self._pending: dict[
            Any, float
        ] = {}  # Tune's trials that wait for a worker -> since when, oldest first

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
        is_late = time.monotonic() - since > PATIENCE
        return oldest if is_late else next(reversed(self._pending))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge one report; a trial that meets something out of order is stopped, and handed out again."""
        if PROBLEM in result:
            if self.avoided is not None:
                self.avoided.add(result["node"], result[PROBLEM])
            return TrialScheduler.STOP
        name, report = trial.config["trial"], json.loads(result["report"])
        if NOTE in result and self.attempts is not None:
            self.attempts.note(name, result[NOTE])
        decision = judge(self.ledger, self.budget, name, report)
        if self.desk is not None:
            self.desk.answer(name, report["tasks_seen"], decision == AGAIN)
        return TrialScheduler.CONTINUE if decision in (CONTINUE, AGAIN) else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Note a trial that ended although nobody stopped it."""
        if self.attempts is not None and PROBLEM not in result:
            name = trial.config["trial"]
            self.attempts.failed(name, "ended before its full budget without being stopped")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Note a failure; Tune asks what to do with the trial's place only after this."""
        if self.attempts is not None:
            self.attempts.failed(trial.config["trial"], _error_text(trial))

    def debug_string(self) -> str:
        """Name the rule."""
        budget = self.budget
        return f"One rung table an algorithm, {budget.scheduler}, factor {budget.reduction_factor}."


def _error_text(trial: Any) -> str:
    path = trial.error_file
    text = Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else "unknown error"
    return text[-4000:].strip()
