"""Asynchronous successive halving with one rung table an algorithm: who may go on from a rung.

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

Where seconds are the budget, a trial is stopped at the report with which its algorithm's are spent; where
the whole search has a time, at the one from which it would not come to its next rung in time.

Two controls: `none` lets everybody go on, and `top_k` has one rung, at grace, where all wait until the last
has arrived, and are then judged as above, each among all the others.

Written by ourselves because Ray's ASHA forgets its rungs on restore (ray#30838), fills lower rungs with later
scores and lets NaN run on. Here a rung table is no state at all: it is read from the ledger, where every
report stands exactly once, at the rung it was made for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from metabench import stats
from metabench.core.config import BudgetConfig
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, CONTINUE, DIVERGED, PRUNED, WAIT, Arrival, Ledger, Trial

REEVALUATE = "again"
"""No decision yet: the trial is to be validated on more tasks, and to report once more."""

SCORES = "val_scores"
"""A report's scores of single tasks: decided with, and left in the trial's own reports."""


HasRoom = Callable[[str, int], bool]
"""(algorithm, tasks) -> whether there is time for a trial of it to see so many more."""


def always(algorithm: str, tasks: int) -> bool:
    """Say that there is time: the search has no end but its budget's."""
    return True


class RungRank(NamedTuple):
    """Where a score stands among those that arrived at its rung before it; journals name these fields."""

    rank: int  # 1 is the best; those that tie share it
    arrived: int  # itself included
    # The other that decides: it would have to be passed, or would have to pass, for the other decision.
    against: str | None
    cutoff: float | None  # the score of that other
    margin: float | None  # the score minus the cut-off: who has a negative one is stopped

    @property
    def is_promoted(self) -> bool:
        """Tell whether it is among the best."""
        return self.margin is None or self.margin >= 0


def rank(arrived: Arrival, others: Sequence[Arrival], reduction_factor: int) -> RungRank:
    """Place a trial among those that have arrived at its rung, in the order of their arrival."""
    n_arrived = len(others) + 1
    pairs = [_on_common_tasks(arrived, other) for other in others]
    place = 1 + sum(score < theirs for score, theirs in pairs)
    if not others:
        return RungRank(place, n_arrived, None, None, None)
    # Of n the best k go on, and with itself out of n its k-th best opponent has the first place that is lost.
    n_promoted = max(1, n_arrived // reduction_factor)
    margins = [score - theirs for score, theirs in pairs]
    decisive = sorted(range(len(others)), key=margins.__getitem__)[n_promoted - 1]
    return RungRank(place, n_arrived, others[decisive].trial, pairs[decisive][1], margins[decisive])


def _on_common_tasks(arrived: Arrival, other: Arrival) -> tuple[float, float]:
    if arrived.reevaluated is None or other.reevaluated is None:
        return arrived.score, other.score
    return arrived.reevaluated, other.reevaluated


def decide(
    ledger: Ledger, budget: BudgetConfig, name: str, report: dict[str, Any], has_room: HasRoom = always
) -> str:
    """Decide a trial's report once and write it down; a report seen before gets the decision it got then."""
    trial = ledger.trials[name]
    seen = report["tasks_seen"]
    if seen in trial.decisions:
        return trial.decisions[seen]
    arrived, scores = Arrival.of(name, report), report.get(SCORES, ())
    rungs = spaces.rungs(budget)
    if report["finite"] and seen not in rungs:
        raise ValueError(f"{name}: reports at {seen} tasks, beside the rungs {rungs}")
    # A trial that diverges reports where it stands, short of the rung that it ran towards.
    details: dict[str, Any] = {"rung": sum(rung < seen for rung in rungs)}
    if not report["finite"] or arrived.score is None or not math.isfinite(arrived.score):
        decision = DIVERGED
    elif seen >= budget.tasks:
        decision = COMPLETE
    elif _is_spent(ledger, budget, trial, report) or not has_room(
        trial.algorithm, next(rung for rung in rungs if rung > seen) - seen
    ):
        decision, details["is_spent"] = PRUNED, True
    elif budget.scheduler != "asha":
        decision = WAIT if budget.scheduler == "top_k" and details["rung"] == 0 else CONTINUE
    elif seen in trial.borderline and arrived.reevaluated is None:
        return REEVALUATE
    else:
        others = ledger.rung(trial.algorithm, seen)[: trial.borderline.get(seen)]
        ranked = rank(arrived, others, budget.reduction_factor)
        decision = CONTINUE if ranked.is_promoted else PRUNED
        details |= _decision_details(ledger, seen, ranked, scores)
        if details["doubtful"] and budget.borderline_tasks is not None and seen not in trial.borderline:
            ledger.mark_borderline(name, seen, len(others), details)
            return REEVALUATE
    kept = {key: report[key] for key in report if key != SCORES}
    ledger.record(name, {**kept, "val_tasks": len(scores)}, decision, details)
    return decision


def _is_spent(ledger: Ledger, budget: BudgetConfig, trial: Trial, report: dict[str, Any]) -> bool:
    """Tell whether an algorithm's seconds are spent with this report: then none of its trials goes on."""
    if budget.seconds is None:
        return False
    return bool(ledger.seconds(trial.algorithm) + report["seconds"] - trial.seconds >= budget.seconds)


def choose_top(ledger: Ledger, budget: BudgetConfig, algorithm: str, n_trials: int) -> list[str]:
    """Decide on an algorithm's trials that wait, once all have arrived or ended; return who was stopped."""
    trials = ledger.of(algorithm)
    if len(trials) < n_trials or any(trial.status is None and not trial.reports for trial in trials):
        return []
    stopped = []
    for trial in [trial for trial in trials if trial.is_waiting]:  # some: a kill may have come in between
        seen = trial.tasks_seen
        at_rung = {each.trial: each for each in ledger.rung(algorithm, seen)}
        arrived = at_rung.pop(trial.name)
        ranked = rank(arrived, list(at_rung.values()), budget.reduction_factor)
        details = _decision_details(ledger, seen, ranked, ledger.task_scores(trial.name, seen))
        ledger.settle(trial.name, CONTINUE if ranked.is_promoted else PRUNED, {"rung": 0, **details})
        stopped += [] if ranked.is_promoted else [trial.name]
    return stopped


def _decision_details(ledger: Ledger, seen: int, ranked: RungRank, scores: Sequence[float]) -> dict[str, Any]:
    """Say what a decision rests on, and whether the tasks were enough for it."""
    details = {**ranked._asdict(), "tasks": None, "paired_se": None, "doubtful": False}
    if ranked.against is None or ranked.margin is None:
        return details
    theirs = ledger.task_scores(ranked.against, seen)
    n_tasks = min(len(scores), len(theirs))
    if n_tasks < 2:
        return details  # its reports are gone, and with them what the noise could be told from
    noise = stats.paired_se(scores[:n_tasks], theirs[:n_tasks])
    return details | {"tasks": n_tasks, "paired_se": noise, "doubtful": abs(ranked.margin) < noise}


def scalars(details: Mapping[str, Any], sign: int) -> dict[str, float]:
    """Name what a decision rests on as TensorBoard shows it; the cut-off as accuracy or error."""
    return {
        f"asha/{key}": float(details[key]) * (sign if key == "cutoff" else 1)
        for key in ("rung", "cutoff", "margin", "rank")
        if details.get(key) is not None
    }
