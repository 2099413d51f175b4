"""Asynchronous successive halving with one rung table an algorithm: who may go on, and Tune's view of it.

Written by ourselves because Ray's ASHA forgets its rungs on restore (ray#30838), fills lower rungs with later
scores and lets NaN run on. Here a rung table is no state at all: it is read from the ledger, where every
report stands exactly once, at the rung it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from metabench.config import BudgetConfig
from metabench.search.ledger import COMPLETE, CONTINUE, DIVERGED, PRUNED, Ledger


def is_top(score: float, others: Sequence[float], reduction_factor: int) -> bool:
    """Return whether a score belongs to the best of a rung, judged on what has arrived there so far.

    Of n scores, this one included, the best max(1, floor(n / reduction_factor)) go on; a tie goes on. The
    first to arrive therefore always goes on, and a later, better score never takes that back.
    """
    kept = max(1, (len(others) + 1) // reduction_factor)
    return sum(other > score for other in others) < kept


def judge(ledger: Ledger, budget: BudgetConfig, name: str, report: dict[str, Any]) -> str:
    """Decide a trial's report once and write it down; a report seen before gets the decision it got then."""
    trial = ledger.trials[name]
    known = trial.decisions.get(report["tasks_seen"])
    if known is not None:
        return known
    score = report["val_score"]
    if not report["finite"] or score is None:
        decision = DIVERGED
    elif report["tasks_seen"] >= budget.tasks:
        decision = COMPLETE
    elif is_top(score, ledger.scores(trial.algorithm, report["tasks_seen"]), budget.reduction_factor):
        decision = CONTINUE
    else:
        decision = PRUNED
    ledger.record(name, report, decision)
    return decision


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
        return f"One rung table an algorithm, the best 1/{self.budget.reduction_factor} go on."
