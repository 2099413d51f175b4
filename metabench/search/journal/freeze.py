"""Freeze-thaw: a model of all learning curves says what is worth training next.

Every trial waits at each of its rungs. Whenever a worker is free, all that may be done is compared: to train
one that waits to its next rung, or a new one to its first. What counts is by how much the best setting, as
the model sees it at the full budget, is expected to improve by what that leg tells, for each second, or task,
that it takes. The leader, whose posterior mean at the full budget is best, is judged by how much would be
gained by finding it worse than the second. Where nothing promises anything, it goes on.

What runs counts as having scored what is expected of it, so that no two workers learn the same.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabench.core.config import BudgetConfig, Choices, Range, limit
from metabench.core.config import allowance as allowance
from metabench.search import space as spaces
from metabench.search.journal import gaussian
from metabench.search.journal.gaussian import Array, Fit
from metabench.search.journal.ledger import DIVERGED, FAILED, PRUNED, Ledger, Trial
from metabench.search.space import AlgorithmSpace, grid
from metabench.storage.models import spent

BLINDLY = 8
"""Settings that the sampler proposes before the model, which would begin with the corners of the space."""

BEYOND = 3.0
"""As many times as far below the median as the best is above it counts a score without bound, at most."""

HOUR = 3600.0

MOST_IN_AN_HOUR = 32
"""Full runs that the gain of an hour is worked out for."""

LEAST_NOISE = 1e-6
"""Variance of a score in squares of the scale, where the scores of single tasks say nothing of it."""

LEAST_COST = 1e-9
"""Seconds, where a leg was too quick for the clock."""

ALIKE = 0.97
"""Correlation of settings so near that chance tells them apart: 0.35 nats, a tenth of a range."""

FAR = 1e3
"""Lengthscales between two choices."""

MOST_POINTS = 200
"""Scores that the model learns from: the last of each trial first."""


class Belief(NamedTuple):
    """What is believed of an algorithm's trials, scores being in units of `scale` above `centre`."""

    trials: Sequence[Trial]  # R of them
    x: Array  # [R, D] coordinates of their settings
    kernel: Array  # [R, R] similarity of their settings
    floors: Array  # [D]
    row: Any  # [n] whose trial each score is
    u: Array  # [n]
    fit: Fit  # to the scores, and to what is expected of those that run
    mean: Array  # [R] at the full budget
    best: tuple[int, int]  # rows of the leader and of the second
    noise: float  # variance of a score
    scale: float
    centre: float


def is_on(budget: BudgetConfig) -> bool:
    """Tell whether trials are chosen in this way."""
    return budget.scheduler == "freeze_thaw"


def floors(its: AlgorithmSpace) -> Array:
    """Return what remains of the correlation of settings however far they are apart in each parameter."""
    is_smooth = [isinstance(one, Range) and grid.count(one) == np.inf for one in its.sampled.values()]
    return np.where(is_smooth, 0.0, gaussian.FLOOR)


def coordinates(its: AlgorithmSpace, sampled: Sequence[Mapping[str, Any]]) -> Array:
    """Return settings as points, [n, D], in lengthscales; an inactive parameter stands at its default."""
    memo = its.memo
    for one in sampled:
        if id(one) not in memo or memo[id(one)][0] is not one:  # which is kept, so that no other takes its id
            memo[id(one)] = one, [_place(p, one.get(name, p.default)) for name, p in its.sampled.items()]
    points = [memo[id(one)][1] for one in sampled]
    return np.array(points, dtype=np.float64).reshape(len(points), len(its.sampled))


def _place(parameter: Range | Choices, value: Any) -> float:
    if isinstance(parameter, Choices):
        place: Any = grid.place(parameter, value)
        return -FAR if place is None else FAR * place
    if parameter.log:
        return math.log(value) / gaussian.LENGTH_LOG
    return float(value / (gaussian.LENGTH_LINEAR * (parameter.high - parameter.low)))


class Remembered(NamedTuple):
    """A belief, and of how many events."""

    n_events: int
    n_scored: int
    belief: Belief | None


def believe(ledger: Ledger, its: AlgorithmSpace, budget: BudgetConfig) -> Belief | None:
    """Return what is believed of an algorithm's trials by now; None where nobody could be named."""
    n_events, before = ledger.n_events[its.algorithm], ledger.memo.get(its.algorithm)
    if before is None or before.n_events != n_events:
        belief = _believe(ledger, its, budget)
        before = Remembered(n_events, ledger.n_scored[its.algorithm], belief)
        ledger.memo[its.algorithm] = before
    return before.belief


def _believe(ledger: Ledger, its: AlgorithmSpace, budget: BudgetConfig) -> Belief | None:
    """Fit the model to what an algorithm's trials have reported."""
    trials = [trial for trial in ledger.of(its.algorithm) if trial.name not in ledger.outside]
    if not any(map(_may_be_named, trials)):
        return None
    reported = _reported(trials)
    running_names = {trial.name for trial in ledger.running()}
    kept = sorted(
        {k for k, _ in reported} | {k for k, trial in enumerate(trials) if trial.name in running_names}
    )
    row = np.searchsorted(kept, [k for k, _ in reported])
    trials = [trials[k] for k in kept]
    scores = _scores(ledger, trials, [report for _, report in reported])
    per_task = _noise_per_task(trials)
    squares = float(np.sum((scores - scores.mean()) ** 2))
    scale = math.sqrt((2 * per_task + squares) / (2 + len(scores))) or 1.0
    noise = max(per_task / budget.validation_tasks / scale**2, LEAST_NOISE)
    x, its_floors = coordinates(its, [trial.sampled for trial in trials]), floors(its)
    kernel = gaussian.similarity(x, x, its_floors)
    u = gaussian.log_tasks([r["tasks_seen"] for _, r in reported], budget.tasks)
    y = (scores - scores.mean()) / scale
    running = np.flatnonzero([_is_running(trial) for trial in trials])
    ends = [spaces.next_rung(budget, trials[k].tasks_seen) for k in running]
    n, rows = len(y), np.append(row, running)
    v = np.append(u, gaussian.log_tasks(ends, budget.tasks))
    prior = _prior(kernel, rows, v, rows, v)  # the last of what runs
    fit = gaussian.fit(prior[:n, :n], y, np.full(n, noise))
    everybody = np.arange(len(trials))
    mean = gaussian.mean(fit, _prior(kernel, row, u, everybody, np.zeros(len(trials))))
    if len(running):
        y = np.append(y, gaussian.mean(fit, prior[:n, n:]))
        row, u = rows, v
        fit = gaussian.condition(fit.factor, prior, y, np.full(len(y), noise))
    return Belief(
        *(trials, x, kernel, its_floors, row, u, fit, mean),
        *(_best(trials, mean), noise, scale, float(scores.mean())),
    )


def _scores(ledger: Ledger, trials: Sequence[Trial], reports: Sequence[dict[str, Any]]) -> Array:
    """Return what the model learns from: of who diverged that is what the worst scored."""
    worst = min(r["val_score"] for trial in trials for r in trial.reports if r["val_score"] is not None)
    scores = np.array([worst if r["val_score"] is None else r["val_score"] for r in reports])
    if ledger.objective.metric.scale == "share":
        return scores
    middle = float(np.median(scores))  # one huge error would set the scale of all
    return np.maximum(scores, middle - BEYOND * (scores.max() - middle))


def _prior(kernel: Array, row: Any, u: Array, other: Any, v: Array) -> Array:
    same = row[:, None] == other[None, :]
    return gaussian.covariance(kernel[np.ix_(row, other)], same, u[:, None], v[None, :])


def _is_running(trial: Trial) -> bool:
    return trial.status is None and not trial.is_waiting


def _may_be_named(trial: Trial) -> bool:
    return trial.status not in (DIVERGED, FAILED) and trial.score is not None


def reaches(budget: BudgetConfig, trial: Trial) -> int:
    """Return the tasks that a trial has seen, at its next report if it runs."""
    return spaces.next_rung(budget, trial.tasks_seen) if _is_running(trial) else trial.tasks_seen


def _reported(trials: Sequence[Trial]) -> list[tuple[int, dict[str, Any]]]:
    """List the reports that the model learns from, each with the place of its trial."""
    if sum(len(trial.reports) for trial in trials) > MOST_POINTS:
        return _fewer(trials)
    return [(k, report) for k, trial in enumerate(trials) for report in trial.reports]


def _fewer(trials: Sequence[Trial]) -> list[tuple[int, dict[str, Any]]]:
    """Choose the last reports of trials, evenly where they are too many, then those before them."""
    last = [(k, trial.reports[-1]) for k, trial in enumerate(trials) if trial.reports]
    seen = np.array([report["tasks_seen"] for _, report in last])
    score = np.array([-math.inf if r["val_score"] is None else r["val_score"] for _, r in last])
    is_out = np.array([not _may_be_named(trials[k]) for k, _ in last])
    # As `preference` has it, but that who diverged or failed comes last.
    last = [last[place] for place in np.lexsort((-score, -seen, is_out))]
    if len(last) > MOST_POINTS:
        best, rest = last[: MOST_POINTS // 2], last[MOST_POINTS // 2 :]
        picks = np.linspace(0, len(rest) - 1, MOST_POINTS - len(best)).astype(int)
        return [*best, *(rest[k] for k in picks)]
    before = [(k, report) for k, _ in last for report in trials[k].reports[:-1][::-1]]
    return [*last, *before][:MOST_POINTS]


def _noise_per_task(trials: Sequence[Trial]) -> float:
    """Return the variance of a task's score, but for what all trials have in common; 0 where unknown."""
    variances = [
        details["paired_se"] ** 2 * details["tasks"] / 2
        for trial in trials
        for details in trial.details.values()
        if details.get("paired_se") is not None
    ]
    return statistics.median(variances) if variances else 0.0


class Leg(NamedTuple):
    """What may be trained next."""

    trial: Trial | None  # that waits; None: a new one
    sampled: Mapping[str, Any]
    begins: int  # tasks seen
    ends: int
    cost: float  # in the budget's unit
    alike: Array  # [R] similarity of its setting to those of the trials


class Choice(NamedTuple):
    """The leg to train next, and what that rests on, in scores."""

    leg: Leg
    expected: float | None  # at the full budget
    promise: float | None  # expected improvement for each second, step in an environment, or task


BLIND = Choice(Leg(None, {}, 0, 0, 1.0, np.empty(0)), None, None)
"""Whatever the sampler proposes, where nobody has reported yet."""


def gains(belief: Belief, budget: BudgetConfig, legs: Sequence[Leg]) -> Array:
    """Return by how much the best at the full budget is expected to improve by what each leg tells, [L].

    Of the leader's own leg that is by finding that the second is better.
    """
    gap, spread = _differences(belief, budget, legs)
    return gaussian.expected_improvement(gap, spread)


def _differences(belief: Belief, budget: BudgetConfig, legs: Sequence[Leg]) -> tuple[Array, Array]:
    """Return mean and standard deviation of what each leg's trial will be expected to be above the leader by.

    Both at the full budget, and as they will stand when the leg has been trained; of the leader's own leg
    it is the second above the leader.
    """
    row = _rows(belief, legs)
    u = gaussian.log_tasks([leg.ends for leg in legs], budget.tasks)
    pair = np.array(belief.best)
    is_lead = row == pair[0]
    rival = pair[is_lead.astype(int)]
    end, factor = np.zeros_like(u), belief.fit.factor
    kernel = np.stack([leg.alike for leg in legs], axis=1)
    at_end, at_leg = _whitened(belief, kernel, row, end, u)
    (of_pair,) = _whitened(belief, belief.kernel[:, pair], pair, np.zeros(2))
    of_rivals = of_pair[:, is_lead.astype(int)]
    # cov(f(1), y(leg)) of the leg's trial and of its rival, given what was observed
    itself, one = np.ones(len(u), dtype=bool), np.ones_like(u)
    ours = factor * gaussian.covariance(one, itself, end, u) - np.sum(at_end * at_leg, axis=0)
    theirs = factor * gaussian.covariance(kernel[rival, np.arange(len(u))], row == rival, end, u)
    theirs -= np.sum(of_rivals * at_leg, axis=0)
    variance = factor * gaussian.covariance(one, itself, u, u) - np.sum(at_leg**2, axis=0) + belief.noise
    gap = at_end.T @ belief.fit.whitened - belief.mean[rival]
    return np.where(is_lead, -gap, gap), np.abs(ours - theirs) / np.sqrt(variance)


def _whitened(belief: Belief, kernel: Array, row: Any, *us: Array) -> list[Array]:
    """Return what of some places, [n, m] for each of some log tasks, is explained by what was observed.

    Args:
        kernel: [R, m] similarity of the trials' settings to those of the places.
        row: [m] whose trial each place is of; -1 of a new one.
    """
    same, similar = belief.row[:, None] == row[None, :], kernel[belief.row]
    crosses = [gaussian.covariance(similar, same, belief.u[:, None], u[None, :]) for u in us]
    return np.split(gaussian.whiten(belief.fit, np.hstack(crosses)), len(us), axis=1)


def _rows(belief: Belief, legs: Sequence[Leg]) -> Any:
    """Return the rows of the trials of legs; -1 for a new one."""
    rows = {trial.name: k for k, trial in enumerate(belief.trials)}
    return np.array([-1 if leg.trial is None else rows[leg.trial.name] for leg in legs], dtype=np.int64)


def _best(trials: Sequence[Trial], mean: Array) -> tuple[int, int]:
    """Return the rows of the leader and of the second; the leader's twice where it is alone.

    Who was stopped short of the full budget leads only where there is nobody else.
    """
    named = [k for k, trial in enumerate(trials) if _may_be_named(trial)]
    order = sorted(named, key=lambda k: (trials[k].status == PRUNED, -mean[k]))
    return order[0], order[1] if len(order) > 1 else order[0]


def leader(belief: Belief) -> Trial:
    """Return the trial with the best posterior mean at the full budget."""
    return belief.trials[belief.best[0]]


def choose(belief: Belief, its: AlgorithmSpace, budget: BudgetConfig, legs: Sequence[Leg]) -> Choice | None:
    """Choose the leg that promises most for what it costs; None where there is none."""
    if not legs:
        return None
    promises = gains(belief, budget, legs) / np.array([leg.cost for leg in legs])
    chosen, first = int(np.argmax(promises)), leader(belief)
    if promises[chosen] <= 0:
        chosen = next((k for k, leg in enumerate(legs) if leg.trial is first), chosen)
    row = _rows(belief, legs)[chosen]
    expected = None if row < 0 else belief.centre + belief.scale * float(belief.mean[row])
    return Choice(legs[chosen], expected, float(promises[chosen]) * belief.scale)


def hourly_gain(
    belief: Belief,
    ledger: Ledger,
    its: AlgorithmSpace,
    budget: BudgetConfig,
    options: Sequence[Mapping[str, Any]],
) -> float | None:
    """Return by how much another hour of one worker is expected to improve the score of what is named.

    That hour trains as many as it can to the full budget, those first that promise most for their seconds.
    None where no time has been taken yet.

    Args:
        options: settings that may be begun.
    """
    seconds = ledger.seconds(its.algorithm)
    if seconds <= 0:
        return None
    rate, first = seconds / ledger.tasks(its.algorithm), leader(belief)
    open_ = [
        t for t in belief.trials if t.status in (None, PRUNED) and t is not first and t.score is not None
    ]
    full = budget.tasks
    begun = [
        Leg(t, t.sampled, t.tasks_seen, full, (full - t.tasks_seen) * rate, alike)
        for t, alike in zip(open_, _alike(belief, open_), strict=True)
    ]
    new = [Leg(None, one, 0, full, full * rate, alike) for one, alike in _untried(belief, its, options)]
    ends = [*begun, *new]
    if not ends:
        return 0.0
    cost = np.array([leg.cost for leg in ends])
    promises = gains(belief, budget, ends) / cost
    order = np.argsort(-promises, kind="stable")[:MOST_IN_AN_HOUR]
    fitting = order[np.cumsum(cost[order]) <= HOUR]
    if not len(fitting):  # a part of one run
        return float(promises[order[0]]) * HOUR * belief.scale
    return _expected_best(belief, its, [ends[k] for k in fitting]) * belief.scale


def _expected_best(belief: Belief, its: AlgorithmSpace, ends: Sequence[Leg]) -> float:
    """Return by how much the best of some, all at the full budget, is expected to be above the leader."""
    row, end = _rows(belief, ends), np.zeros(len(ends))
    x = coordinates(its, [leg.sampled for leg in ends])
    (explained,) = _whitened(belief, np.stack([leg.alike for leg in ends], axis=1), row, end)
    same = np.eye(len(row), dtype=bool)
    prior = gaussian.covariance(gaussian.similarity(x, x, belief.floors), same, end[:, None], end[None, :])
    left = belief.fit.factor * prior - explained.T @ explained
    gap = explained.T @ belief.fit.whitened - belief.mean[belief.best[0]]
    return gaussian.expected_best(gap, left)


def _untried(
    belief: Belief, its: AlgorithmSpace, options: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Array]]:
    """List settings that no trial as good as equals, with their similarity to those of the trials."""
    alike = gaussian.similarity(belief.x, coordinates(its, options), belief.floors)
    is_new = alike.max(axis=0) < ALIKE
    return [(sampled, one) for sampled, one, new in zip(options, alike.T, is_new, strict=True) if new]


def _alike(belief: Belief, trials: Sequence[Trial]) -> Array:
    rows = {trial.name: k for k, trial in enumerate(belief.trials)}
    return belief.kernel[[rows[trial.name] for trial in trials]]


def costs(trials: Sequence[Trial], budget: BudgetConfig) -> dict[int, float]:
    """Return what the leg to each rung costs in the budget's unit, as recorded; else in tasks."""
    rungs = spaces.rungs(budget)
    steps = {rung: float(rung - before) for rung, before in zip(rungs, [0, *rungs], strict=False)}
    if limit(budget) is None:
        return steps
    taken: dict[int, list[float]] = {rung: [] for rung in rungs}
    for trial in trials:
        ends = [spent(trial.reports[: k + 1], budget.unit) for k in range(len(trial.reports))]
        for before, end, report in zip([0.0, *ends], ends, trial.reports, strict=False):
            taken.get(report["tasks_seen"], []).append(end - before)
    seen = sum(steps[rung] * len(those) for rung, those in taken.items())
    rate = sum(map(sum, taken.values())) / max(seen, 1)
    usual = {rung: statistics.fmean(taken[rung] or [steps[rung] * rate]) for rung in rungs}
    return {rung: max(cost, LEAST_COST) for rung, cost in usual.items()}


def legs(
    belief: Belief, its: AlgorithmSpace, budget: BudgetConfig, options: Sequence[Mapping[str, Any]]
) -> list[Leg]:
    """List what may be trained next: who waits, and settings that may be begun."""
    cost, waiting = costs(belief.trials, budget), [trial for trial in belief.trials if trial.is_waiting]
    onwards = {seen: spaces.next_rung(budget, seen) for seen in {0, *(trial.tasks_seen for trial in waiting)}}
    first = onwards[0]
    begun = [
        Leg(one, one.sampled, one.tasks_seen, onwards[one.tasks_seen], cost[onwards[one.tasks_seen]], alike)
        for one, alike in zip(waiting, _alike(belief, waiting), strict=True)
    ]
    new = [Leg(None, one, 0, first, cost[first], alike) for one, alike in _untried(belief, its, options)]
    return [*begun, *new]


def latest(ledger: Ledger, its: AlgorithmSpace, budget: BudgetConfig) -> Belief | None:
    """Return what all scores so far say; None where there is none.

    Who runs, or has been proposed, since the model was last asked changes nothing of that.
    """
    before = ledger.memo.get(its.algorithm)
    if before is None or before.n_scored != ledger.n_scored[its.algorithm]:
        return believe(ledger, its, budget)
    return before.belief


def incumbent(ledger: Ledger, its: AlgorithmSpace, budget: BudgetConfig) -> Trial | None:
    """Return the trial that the model expects most of at the full budget; None where no score is there."""
    belief = latest(ledger, its, budget)
    return None if belief is None else leader(belief)
