"""Freeze-thaw: a model of all learning curves says which trial is worth its next leg, or a new one its first.

Every trial waits at each of its rungs. Whenever a worker is free, all that may be done is compared: take up a
trial that waits to its next rung, or begin a new one. What counts is by how much the best setting, as the model
sees it at the full budget, is expected to improve by what that leg tells, for each second that it takes. The
leader, whose posterior mean at the full budget is best, is judged by the chance that it turns out worse than
the second. Where nothing promises more than a price, the leader goes on; each trial that completes halves it.

What runs counts as having scored what is expected of it, so that no two workers learn the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metabench.core.config import BudgetConfig, Choices, Range
from metabench.search import space as spaces
from metabench.search.journal import gaussian
from metabench.search.journal.gaussian import Array, Fit
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, Ledger, Trial
from metabench.search.space import grid

PRICE = 1.5
"""Prior standard deviations of settings that a full run must promise, or the leader goes on."""

MOST_POINTS = 300
"""Scores that the model learns from: the last of each trial first."""


class Belief(NamedTuple):
    """What is believed of an algorithm's trials, scores being in units of `scale` above `centre`."""

    trials: Sequence[Trial]  # R of them, those that diverged or failed among them
    x: Array  # [R, D] coordinates of their settings
    floors: Array  # [D]
    row: Any  # [n] whose trial each score is
    u: Array  # [n]
    fit: Fit  # to the scores, and to what is expected of those that run
    mean: Array  # [R] at the full budget
    noise: float  # variance of a score
    scale: float
    centre: float

    def is_in(self, row: int) -> bool:
        """Tell whether a trial may be named."""
        trial = self.trials[row]
        return trial.status not in (DIVERGED, FAILED) and trial.score is not None


def floors(its: spaces.AlgorithmSpace) -> Array:
    """Return what remains of the correlation of settings however far they are apart in each parameter."""
    is_smooth = [isinstance(one, Range) and grid.count(one) == np.inf for one in its.sampled.values()]
    return np.where(is_smooth, 0.0, gaussian.FLOOR)


def coordinates(its: spaces.AlgorithmSpace, sampled: Sequence[Mapping[str, Any]]) -> Array:
    """Return settings as points, [n, D], in lengthscales; an inactive parameter stands at its default."""
    columns = [
        [_coordinate(parameter, one.get(name, parameter.default)) for one in sampled]
        for name, parameter in its.sampled.items()
    ]
    return np.array(columns, dtype=np.float64).reshape(len(columns), len(sampled)).T


def _coordinate(parameter: Range | Choices, value: Any) -> float:
    if isinstance(parameter, Choices):
        place: Any = grid.place(parameter, value)
        return 1e3 * (-1 if place is None else place)  # any two are far apart
    if parameter.log:
        return float(np.log(value)) / gaussian.LENGTH_LOG
    return float(value) / (gaussian.LENGTH_LINEAR * (parameter.high - parameter.low))


def believe(ledger: Ledger, its: spaces.AlgorithmSpace, budget: BudgetConfig) -> Belief | None:
    """Fit the model to what an algorithm's trials have reported; None where no score is there."""
    trials = [trial for trial in ledger.of(its.algorithm) if trial.name not in ledger.outside]
    rows, tasks, scores = _points(trials)
    if not any(trial.score is not None and trial.status not in (DIVERGED, FAILED) for trial in trials):
        return None
    kept = sorted(set(rows) | {k for k, trial in enumerate(trials) if _is_running(trial)})
    place = {k: number for number, k in enumerate(kept)}
    trials, row = [trials[k] for k in kept], np.array([place[k] for k in rows])
    per_task = _noise_per_task(trials)
    centre = float(np.mean(scores))
    scale = float(np.sqrt((2 * per_task + np.sum((scores - centre) ** 2)) / (2 + len(scores)))) or 1.0
    noise = max(per_task / budget.validation_tasks / scale**2, 1e-6)
    x, its_floors = coordinates(its, [trial.sampled for trial in trials]), floors(its)
    kernel = gaussian.similarity(x, x, its_floors)
    y = (scores - centre) / scale
    u = gaussian.log_tasks(tasks, budget.tasks)
    fit = gaussian.fit(_prior(kernel, row, u, row, u), y, np.full(len(y), noise))
    mean = _mean(fit, kernel, row, u, np.arange(len(trials)), np.zeros(len(trials)))
    running = np.array([k for k, trial in enumerate(trials) if _is_running(trial)], dtype=np.int64)
    if len(running):
        ahead = np.array([_next_rung(budget, trials[k].tasks_seen) for k in running], dtype=np.float64)
        v = gaussian.log_tasks(ahead, budget.tasks)
        expected = _mean(fit, kernel, row, u, running, v)
        row, u, y = np.append(row, running), np.append(u, v), np.append(y, expected)
        fit = gaussian.condition(fit.factor, _prior(kernel, row, u, row, u), y, np.full(len(y), noise))
    return Belief(trials, x, its_floors, row, u, fit, mean, noise, scale, centre)


def _prior(kernel: Array, row: Any, u: Array, other: Any, v: Array) -> Array:
    same = row[:, None] == other[None, :]
    return gaussian.covariance(kernel[np.ix_(row, other)], same, u[:, None], v[None, :])


def _mean(fit: Fit, kernel: Array, row: Any, u: Array, other: Any, v: Array) -> Array:
    return np.asarray(gaussian.whiten(fit, _prior(kernel, row, u, other, v)).T @ fit.whitened)


def _is_running(trial: Trial) -> bool:
    return trial.status is None and not trial.is_waiting


def _next_rung(budget: BudgetConfig, seen: int) -> int:
    return next((rung for rung in spaces.rungs(budget) if rung > seen), budget.tasks)


def _points(trials: Sequence[Trial]) -> tuple[list[int], Array, Array]:
    """Return whose the scores are that the model learns from, after how many tasks, and the scores.

    A trial that diverged counts as scoring what the worst did.
    """
    reported = [(k, r) for k, trial in enumerate(trials) for r in trial.reports]
    worst = min((r["val_score"] for _, r in reported if r["val_score"] is not None), default=None)
    if worst is None:
        return [], np.empty(0), np.empty(0)
    if len(reported) > MOST_POINTS:
        reported = _fewer(trials)
    scores = [worst if r["val_score"] is None else r["val_score"] for _, r in reported]
    return [k for k, _ in reported], np.array([r["tasks_seen"] for _, r in reported], float), np.array(scores)


def _fewer(trials: Sequence[Trial]) -> list[tuple[int, dict[str, Any]]]:
    """Choose the last reports of trials, evenly where they are too many, then those before them."""
    order = sorted((k for k, t in enumerate(trials) if t.reports), key=lambda k: -trials[k].tasks_seen)
    last = [(k, trials[k].reports[-1]) for k in order]
    before = [(k, report) for k in order for report in trials[k].reports[:-1][::-1]]
    if len(last) > MOST_POINTS:
        best, rest = last[: MOST_POINTS // 2], last[MOST_POINTS // 2 :]
        picks = np.linspace(0, len(rest) - 1, MOST_POINTS - len(best)).astype(int)
        last = [*best, *(rest[k] for k in picks)]
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


def leader(belief: Belief) -> int:
    """Return the row of the trial with the best posterior mean at the full budget."""
    return max(filter(belief.is_in, range(len(belief.trials))), key=lambda k: belief.mean[k])


class Leg(NamedTuple):
    """What may be trained next."""

    trial: Trial | None  # that waits; None: a new one
    sampled: Mapping[str, Any]
    tasks_seen: int  # at its end
    cost: float  # seconds, or tasks where those are the budget


def gains(belief: Belief, its: spaces.AlgorithmSpace, budget: BudgetConfig, legs: Sequence[Leg]) -> Array:
    """Return by how much the best at the full budget is expected to improve by what each leg tells, [L].

    Of the leader's own leg that is by finding that the second is better.
    """
    rows = {trial.name: k for k, trial in enumerate(belief.trials)}
    row = np.array([-1 if leg.trial is None else rows[leg.trial.name] for leg in legs])
    x = coordinates(its, [leg.sampled for leg in legs])
    lead = leader(belief)
    others = [k for k in range(len(rows)) if k != lead and belief.is_in(k)]
    second = max(others, key=lambda k: belief.mean[k], default=lead)
    rival = np.where(row == lead, second, lead)
    kernel = gaussian.similarity(belief.x, x, belief.floors)
    u = gaussian.log_tasks(np.array([leg.tasks_seen for leg in legs], float), budget.tasks)
    same, seen = belief.row[:, None] == row[None, :], belief.u[:, None]
    at_end = gaussian.whiten(
        belief.fit, gaussian.covariance(kernel[belief.row], same, seen, np.zeros_like(u)[None, :])
    )
    at_leg = gaussian.whiten(
        belief.fit, gaussian.covariance(kernel[belief.row], same, seen, u[None, :])
    )
    pair = np.array([lead, second])
    between = gaussian.similarity(belief.x, belief.x[pair], belief.floors)
    of_rivals = gaussian.whiten(
        belief.fit,
        gaussian.covariance(between[belief.row], belief.row[:, None] == pair[None, :], seen, np.zeros((1, 2))),
    )[:, (row == lead).astype(int)]
    factor = belief.fit.factor
    one, yes, zero = np.ones_like(u), np.ones(len(u), dtype=bool), np.zeros_like(u)
    ours = factor * gaussian.covariance(one, yes, zero, u) - np.sum(at_end * at_leg, axis=0)
    theirs = factor * gaussian.covariance(kernel[rival, np.arange(len(u))], row == rival, zero, u)
    theirs -= np.sum(of_rivals * at_leg, axis=0)
    variance = factor * gaussian.covariance(one, yes, u, u) - np.sum(at_leg**2, axis=0) + belief.noise
    spread = np.abs(ours - theirs) / np.sqrt(variance)
    gap = at_end.T @ belief.fit.whitened - belief.mean[rival]
    return gaussian.expected_improvement(np.where(row == lead, -gap, gap), spread)


class Choice(NamedTuple):
    """The leg to train next, and what that rests on."""

    leg: Leg
    index: float  # expected improvement of the score for each second, or task
    price: float  # at which the leader goes on
    is_leader: bool


def choose(
    belief: Belief,
    its: spaces.AlgorithmSpace,
    budget: BudgetConfig,
    legs: Sequence[Leg],
    full_cost: float,
) -> Choice | None:
    """Choose among legs; None where there is none."""
    if not legs:
        return None
    index = gains(belief, its, budget, legs) / np.array([leg.cost for leg in legs])
    n_complete = sum(trial.status == COMPLETE for trial in belief.trials)
    price = PRICE * gaussian.SETTING * belief.fit.factor**0.5 / full_cost * 0.5**n_complete
    best, first = int(np.argmax(index)), belief.trials[leader(belief)]
    own = next((k for k, leg in enumerate(legs) if leg.trial is first), None)
    if own is not None and index[best] < price:
        best = own
    unit = belief.scale
    return Choice(legs[best], float(index[best]) * unit, price * unit, best == own)


def is_on(budget: BudgetConfig) -> bool:
    """Tell whether trials are chosen in this way."""
    return budget.scheduler == "freeze_thaw"


def costs(belief: Belief, budget: BudgetConfig) -> dict[int, float]:
    """Return what the leg to each rung costs: seconds as they were recorded, or tasks where those are the budget."""
    rungs = spaces.rungs(budget)
    steps = {rung: float(rung - before) for rung, before in zip(rungs, [0, *rungs], strict=False)}
    if budget.seconds is None:
        return steps
    taken: dict[int, list[float]] = {rung: [] for rung in rungs}
    for trial in belief.trials:
        spent = 0.0
        for report in trial.reports:
            if report["tasks_seen"] in taken:
                taken[report["tasks_seen"]].append(report["seconds"] - spent)
            spent = report["seconds"]
    seen = sum(steps[rung] * len(those) for rung, those in taken.items())
    rate = sum(map(sum, taken.values())) / max(seen, 1)
    return {
        rung: max(statistics.fmean(taken[rung]) if taken[rung] else steps[rung] * rate, 1e-9) for rung in rungs
    }


def waiting_legs(
    belief: Belief, budget: BudgetConfig, cost: Mapping[int, float], everybody: bool
) -> list[Leg]:
    """List the legs of who waits; of the leader alone, as long as nobody is complete, if not of everybody."""
    trials = [trial for trial in belief.trials if trial.is_waiting]
    if not everybody:
        has_ended = any(trial.status == COMPLETE for trial in belief.trials)
        trials = [trial for trial in trials if trial is belief.trials[leader(belief)] and not has_ended]
    ends = [_next_rung(budget, trial.tasks_seen) for trial in trials]
    return [Leg(trial, trial.sampled, end, cost[end]) for trial, end in zip(trials, ends, strict=True)]


def allowance(budget: BudgetConfig, n_trials: int) -> float:
    """Return the tasks that so many trials see where one in `reduction_factor` passes each rung."""
    rungs = spaces.rungs(budget)
    return sum(
        max(1.0, n_trials / budget.reduction_factor**k) * (rung - before)
        for k, (rung, before) in enumerate(zip(rungs, [0, *rungs], strict=False))
    )


def incumbent(ledger: Ledger, its: spaces.AlgorithmSpace, budget: BudgetConfig) -> Trial | None:
    """Return the trial that the model expects most of at the full budget; None where no score is there."""
    belief = believe(ledger, its, budget)
    return None if belief is None else belief.trials[leader(belief)]
