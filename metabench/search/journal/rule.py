"""Asynchronous successive halving with one rung table an algorithm: who may go on from a rung.

The rule. Rungs stand at grace, grace * r, grace * r^2, ... tasks seen below the full budget, for a reduction
factor r. A trial arrives at a rung with its report made exactly there, and is compared with the trials of
its algorithm that have arrived there. Of n, itself included, the best floor(n / r) may go on, a tie among
them. One that is not among them waits: whenever a worker is free, the best that waits at the highest rung is
taken up again if by now it is, and else a new trial begins. When all have been tried and none runs, the best
at a rung goes on however few they are, so that somebody gets to the full budget; who still waits then is
stopped. One that is too far behind to be among the best of as many as there will ever be is stopped at once.
This is promotion as Li et al. wrote it (arXiv 1810.05934, algorithm 2), but for that end.

Without `pause`, who is not among the best is stopped for good: of n that have arrived, max(1, floor(n / r))
go on. So the first to arrive goes on, and what arrives later takes nothing back.

In either form a rung is never filled from a higher one. A score that is not a finite number ends its trial
and enters no table. At the full budget there is nothing to decide: who gets there is complete.

Where a decision is within the noise of the validation tasks, and the budget has `borderline_tasks`, the
trial is validated on more of them first. It is then compared with each of the others on the tasks that both
have, since a mean over other tasks may be better for easier ones; and only with those that had arrived when
it did, so that the decision is the same whatever happens while it is looked at again.

Where seconds or steps in environments are the budget, a trial is stopped at the report with which its
algorithm's are spent; where the whole search has a time, at the one from which it would not come to its next
rung in time. With `pause`, no trial begins in what the leader needs of them to the full budget.

With `freeze_thaw` all wait, and a model of the learning curves (`freeze.py`) chooses in place of the rule.

Two controls: `none` lets everybody go on, and `top_k` has one rung, at grace, where all wait until the last
has arrived.

Written by ourselves because Ray's ASHA forgets its rungs on restore (ray#30838), fills lower rungs with later
scores and lets NaN run on. Here a rung table is no state at all: it is read from the ledger, where every
report stands exactly once, at the rung it was made for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from metabench import stats
from metabench.core.config import BudgetConfig, limit
from metabench.search import space as spaces
from metabench.search.journal.ledger import (
    COMPLETE,
    CONTINUE,
    DIVERGED,
    FAILED,
    PRUNED,
    WAIT,
    Arrival,
    Ledger,
    Trial,
)
from metabench.storage.models import spent

REEVALUATE = "again"
"""No decision yet: the trial is to be validated on more tasks, and to report once more."""

SCORES = "val_scores"
"""A report's scores of single tasks: decided with, and left in the trial's own reports."""


CUT_SHORT = "ended before its first report: the search was asked to finish"
"""The error of a trial of which nothing is known."""

SPARE = 2
"""How many more wait than may ever go on, in place of those among the best that diverge later."""

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
    elif budget.scheduler in ("none", "top_k"):
        decision = WAIT if budget.scheduler == "top_k" and details["rung"] == 0 else CONTINUE
    elif seen in trial.borderline and arrived.reevaluated is None:
        return REEVALUATE
    else:
        others = ledger.rung(trial.algorithm, seen)[: trial.borderline.get(seen)]
        decision, ranked = _compare(budget, arrived, others)
        details |= _decision_details(ledger, seen, ranked, scores)
        if details["doubtful"] and budget.borderline_tasks is not None and seen not in trial.borderline:
            ledger.mark_borderline(name, seen, len(others), details)
            return REEVALUATE
    _record(ledger, name, report, decision, details)
    return decision


def _compare(budget: BudgetConfig, arrived: Arrival, others: Sequence[Arrival]) -> tuple[str, RungRank]:
    """Decide by where a trial stands among those that have arrived at its rung."""
    if budget.scheduler == "freeze_thaw":  # all wait, and are told from the best
        return WAIT, rank(arrived, others, len(others) + 1)
    ranked = rank(arrived, others, budget.reduction_factor)
    if not budget.pause:
        return CONTINUE if ranked.is_promoted else PRUNED, ranked
    n_promoted = ranked.arrived // budget.reduction_factor
    if not n_promoted:  # nobody may go on, so no other decides
        ranked = ranked._replace(against=None, cutoff=None, margin=None)
    return CONTINUE if ranked.rank <= n_promoted else WAIT, ranked


def _is_spent(ledger: Ledger, budget: BudgetConfig, trial: Trial, report: dict[str, Any]) -> bool:
    """Tell whether an algorithm's budget is spent with this report: then none of its trials goes on."""
    if (most := limit(budget)) is None:
        return False
    more = spent([*trial.reports, report], budget.unit) - spent(trial.reports, budget.unit)
    return ledger.spent(trial.algorithm, budget.unit) + more >= most


def next_waiting(
    ledger: Ledger, budget: BudgetConfig, algorithm: str, full: float, has_room: HasRoom = always
) -> tuple[str, RungRank] | None:
    """Return which of an algorithm's trials that wait may go on, the highest rung first; None: none.

    Args:
        full: the highest rung, in tasks seen, at which nobody is to arrive any more: the best there goes on
            however few they are, once nobody at a lower rung may.
    """
    by_rung = _waiting(ledger, algorithm)
    onwards = {seen: next((rung for rung in spaces.rungs(budget) if rung > seen), seen) for seen in by_rung}
    rungs = [seen for seen in sorted(by_rung, reverse=True) if has_room(algorithm, onwards[seen] - seen)]
    ranked = {seen: _best(ledger, budget, algorithm, seen, by_rung[seen]) for seen in rungs}
    for seen in rungs if pauses(budget) else []:
        name, standing, _ = ranked[seen]
        if standing.rank <= standing.arrived // budget.reduction_factor:
            return name, standing
    for seen in (seen for seen in rungs if seen <= full):
        name, standing, n_gone = ranked[seen]
        n_promoted = max(1, standing.arrived // budget.reduction_factor)
        # Where some were looked at again, each of those that wait may be behind another.
        if standing.rank <= n_promoted or n_gone < n_promoted:
            return name, standing
    return None


def resume(
    ledger: Ledger, budget: BudgetConfig, algorithm: str, full: float, has_room: HasRoom = always
) -> Trial | None:
    """Let the trial that waits and may go on do so; see `next_waiting`."""
    chosen = next_waiting(ledger, budget, algorithm, full, has_room)
    return None if chosen is None else _settle(ledger, budget, chosen[0], CONTINUE, chosen[1])


def stop_waiting(ledger: Ledger, budget: BudgetConfig, algorithm: str, n_trials: float) -> None:
    """Stop those of an algorithm's trials that wait, and will never be among the best of so many trials."""
    if n_trials and budget.borderline_tasks is not None:
        return  # by means over other tasks nobody is surely behind
    most = int(min(n_trials, budget.trials))
    n_promoted = max(1, most // budget.reduction_factor) + SPARE if most else 0
    for seen, names in _waiting(ledger, algorithm).items():
        table = _judged(ledger, algorithm, seen)
        scores = sorted((each.score for each in table), reverse=True)
        cutoff = scores[n_promoted - 1] if 0 < n_promoted <= len(scores) else math.inf
        if n_promoted and len(table) <= n_promoted:
            continue
        for each in [each for each in table if each.trial in names and each.score < cutoff]:
            others = [other for other in table if other is not each]
            if budget.scheduler == "freeze_thaw":  # what it waited for was no rank
                ledger.settle(each.trial, PRUNED, ledger.trials[each.trial].details[seen])
            else:
                _settle(ledger, budget, each.trial, PRUNED, rank(each, others, budget.reduction_factor))


def cut_short(ledger: Ledger, budget: BudgetConfig) -> None:
    """End every trial where it is: none runs any more, and none is going to.

    What a worker has written down is heard, told or not: the state that the trial has is of that report.
    """
    for algorithm in {trial.algorithm for trial in ledger.unfinished()}:
        stop_waiting(ledger, budget, algorithm, 0)
    for trial in ledger.unfinished():
        made = reversed(ledger.made(trial.name))
        last = next((report for report in made if report["tasks_seen"] > trial.tasks_seen), None)
        if last is None and not trial.reports:
            ledger.fail(trial.name, CUT_SHORT)
            continue
        seen = trial.tasks_seen if last is None else last["tasks_seen"]
        details = {"rung": sum(rung < seen for rung in spaces.rungs(budget)), "is_cut_short": True}
        if last is None:
            ledger.settle(trial.name, PRUNED, details)
            continue
        decision = COMPLETE if seen >= budget.tasks else PRUNED if last["finite"] else DIVERGED
        _record(ledger, trial.name, last, decision, details)


def _record(
    ledger: Ledger, name: str, report: dict[str, Any], decision: str, details: dict[str, Any]
) -> None:
    """Write a report down without the scores of single tasks."""
    kept = {key: report[key] for key in report if key != SCORES}
    ledger.record(name, {**kept, "val_tasks": len(report.get(SCORES, ()))}, decision, details)


def _waiting(ledger: Ledger, algorithm: str) -> dict[int, set[str]]:
    """Return which trials of an algorithm wait, by the tasks that they have seen."""
    waiting: dict[int, set[str]] = {}
    for trial in ledger.unfinished():
        if trial.algorithm == algorithm and trial.is_waiting:
            waiting.setdefault(trial.tasks_seen, set()).add(trial.name)
    return waiting


def _best(
    ledger: Ledger, budget: BudgetConfig, algorithm: str, seen: int, names: set[str]
) -> tuple[str, RungRank, int]:
    """Return the best of those that wait at a rung, where it stands, and how many went on from there."""
    table = _judged(ledger, algorithm, seen)
    waiting = [each for each in table if each.trial in names]
    if budget.borderline_tasks is None:
        waiting = [max(waiting, key=lambda each: each.score)]
    factor = budget.reduction_factor
    ranks = {
        each.trial: rank(each, [other for other in table if other is not each], factor) for each in waiting
    }
    best = min(waiting, key=lambda each: (ranks[each.trial].rank, -each.score))
    n_gone = sum(ledger.trials[each.trial].decisions[seen] == CONTINUE for each in table)
    return best.trial, ranks[best.trial], n_gone


def pauses(budget: BudgetConfig) -> bool:
    """Tell whether who is not among the best waits until it may be."""
    return budget.scheduler == "asha" and budget.pause


def _judged(ledger: Ledger, algorithm: str, seen: int) -> list[Arrival]:
    """Return a rung table without those that failed since, or that the space has no longer."""
    table = ledger.rung(algorithm, seen)
    return [
        each
        for each in table
        if ledger.trials[each.trial].status not in (DIVERGED, FAILED) and each.trial not in ledger.outside
    ]


def _settle(ledger: Ledger, budget: BudgetConfig, name: str, decision: str, ranked: RungRank) -> Trial:
    """Write down what is decided on a trial that has waited, and what that rests on."""
    seen = ledger.trials[name].tasks_seen
    details = _decision_details(ledger, seen, ranked, ledger.task_scores(name, seen))
    rung = sum(one < seen for one in spaces.rungs(budget))
    ledger.settle(name, decision, {"rung": rung, **details})
    return ledger.trials[name]


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
        f"stopping/{key}": float(details[key]) * (sign if key == "cutoff" else 1)
        for key in ("rung", "cutoff", "margin", "rank")
        if details.get(key) is not None
    }
