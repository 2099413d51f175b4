"""Asynchronous successive halving with one rung table an algorithm: who may go on, and Tune's view of it.

The rule. Rungs stand at grace, grace * r, grace * r^2, ... tasks seen below the full budget, for a reduction
factor r. A trial arrives at a rung with its report made exactly there, and is compared with the trials of
its algorithm that have arrived there before it. Of n, itself included, max(1, floor(n / r)) go on: it goes
on if fewer than that many of the others are better. So the first to arrive goes on, a tie goes on, and a
decision is final: what arrives later takes nothing back, who was stopped is not started again, and a rung is
never filled from a higher one. A score that is not a finite number ends its trial and enters no table. At
the full budget there is nothing to decide: who gets there is complete.

Two controls: `none` lets everybody go on, and `top_k` has one rung, at grace, where all wait until the last
has arrived, and are then judged as above, each among all the others.

Written by ourselves because Ray's ASHA forgets its rungs on restore (ray#30838), fills lower rungs with later
scores and lets NaN run on. Here a rung table is no state at all: it is read from the ledger, where every
report stands exactly once, at the rung it was made for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from metabench import spaces, stats
from metabench.config import BudgetConfig
from metabench.search.ledger import COMPLETE, CONTINUE, DIVERGED, PRUNED, WAIT, Arrival, Ledger

SCORES = "val_scores"
"""A report's scores of single tasks: decided with, and left in the trial's own reports."""


class Standing(NamedTuple):
    """Where a score stands among those that arrived at its rung before it."""

    rank: int  # 1 is the best; those that tie share it
    arrived: int  # itself included
    # The other that decides: it would have to be passed, or would have to pass, for the other decision.
    against: Arrival | None
    margin: float | None  # score minus that of `against`: who has a negative one is stopped

    @property
    def goes_on(self) -> bool:
        """Tell whether it is among the best."""
        return self.margin is None or self.margin >= 0


def standing(score: float, others: Sequence[Arrival], reduction_factor: int) -> Standing:
    """Place a score among those that have arrived at its rung, in the order of their arrival."""
    arrived = len(others) + 1
    rank = 1 + sum(other.score > score for other in others)
    if not others:
        return Standing(rank, arrived, None, None)
    # Of n the best k go on, and with itself out of n its k-th best opponent has the first place that is lost.
    kept = max(1, arrived // reduction_factor)
    against = sorted(others, key=lambda other: -other.score)[kept - 1]
    return Standing(rank, arrived, against, score - against.score)


def judge(ledger: Ledger, budget: BudgetConfig, name: str, report: dict[str, Any]) -> str:
    """Decide a trial's report once and write it down; a report seen before gets the decision it got then."""
    trial = ledger.trials[name]
    seen = report["tasks_seen"]
    if seen in trial.decisions:
        return trial.decisions[seen]
    score = report["val_score"]
    basis: dict[str, Any] = {"rung": spaces.rungs(budget).index(seen)}
    if not report["finite"] or score is None or not math.isfinite(score):
        decision = DIVERGED
    elif seen >= budget.tasks:
        decision = COMPLETE
    elif budget.scheduler != "asha":
        decision = CONTINUE if budget.scheduler == "none" else WAIT
    else:
        found = standing(score, ledger.rung(trial.algorithm, seen), budget.reduction_factor)
        decision = CONTINUE if found.goes_on else PRUNED
        basis |= _basis(ledger, seen, found, report.get(SCORES, ()))
    ledger.record(name, {key: report[key] for key in report if key != SCORES}, decision, basis)
    return decision


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
        found = standing(own.score, others, budget.reduction_factor)
        basis = {"rung": 0, **_basis(ledger, seen, found, ledger.task_scores(trial.name, seen))}
        ledger.settle(trial.name, CONTINUE if found.goes_on else PRUNED, basis)
        stopped += [] if found.goes_on else [trial.name]
    return stopped


def _basis(ledger: Ledger, seen: int, found: Standing, scores: Sequence[float]) -> dict[str, Any]:
    """Say what a decision rests on, and whether the tasks were enough for it."""
    basis = {
        "rank": found.rank,
        "arrived": found.arrived,
        "against": found.against and found.against.trial,
        "cutoff": found.against and found.against.score,
        "margin": found.margin,
        "tasks": None,
        "paired_se": None,
        "doubtful": False,
    }
    if found.against is None or found.margin is None:
        return basis
    theirs = ledger.task_scores(found.against.trial, seen)
    if len(scores) != len(theirs) or len(scores) < 2:
        return basis  # its reports are gone, and with them what the noise could be told from
    noise = stats.paired_se(scores, theirs)
    return basis | {"tasks": len(scores), "paired_se": noise, "doubtful": abs(found.margin) < noise}


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

    def __init__(self, ledger: Ledger, budget: BudgetConfig) -> None:
        super().__init__()
        self.ledger = ledger
        self.budget = budget

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge one report."""
        decision = judge(self.ledger, self.budget, trial.config["trial"], json.loads(result["report"]))
        return TrialScheduler.CONTINUE if decision == CONTINUE else TrialScheduler.STOP

    def debug_string(self) -> str:
        """Name the rule."""
        budget = self.budget
        return f"One rung table an algorithm, {budget.scheduler}, factor {budget.reduction_factor}."
