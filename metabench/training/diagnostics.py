"""What one asks of a trained learner beside its mean: how it adapts, where it fails, how sure it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabench import algorithms, stats
from metabench.core import Task, Tree
from metabench.core.metrics import Metric
from metabench.data.tasks import frozen
from metabench.data.tasks.frozen import FrozenTasks
from metabench.training import evaluate
from metabench.training.graphs.trace import TraceCache
from metabench.training.vectorise import Model

STEPS = 5
"""Inner steps up to which adaptation is followed one by one."""

FURTHER = (10, 20, 50, 100, 200, 500, 1000)
"""And after which, where evaluation takes more: together they cost less than three such evaluations."""

TASKS = 100
"""Tasks that are looked at, at most: the first of the frozen ones."""

FOLLOWED = 20
"""Of these, how many are followed over inner steps."""

BINS = 15
"""Equal bins of confidence for the calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""

WORST = 0.1
"""Share of the tasks whose mean is that of the worst."""


def diagnose(
    model: Model, images: Tensor, tasks: FrozenTasks, traces: TraceCache | None = None
) -> dict[str, Any]:
    """Look at the first frozen tasks closely.

    Returns:
        tasks: how many were looked at.
        worst_tenth: mean accuracy (or error) of the worst tenth of the tasks.
        calibration_error: expected calibration error in [0, 1]; None for regression.
        followed: how many of them were followed over inner steps.
        over_steps: accuracy (or error) after 0, 1, ... inner steps, and after a few more up to those that
            evaluation takes; None without an inner loop.
        diverged: share of tasks whose support loss is higher after the inner loop than before, or not
            finite; of control, whose return is lower; None without an inner loop.
    """
    tasks = frozen.between(tasks, 0, TASKS)
    metric = model.net.objective.metric
    scored = _score(model, images, tasks, traces)
    n_worst = max(1, math.ceil(WORST * len(scored["score"])))
    diagnosis = {
        "tasks": len(scored["score"]),
        "worst_tenth": metric.sign * float(np.sort(metric.sign * scored["score"])[:n_worst].mean()),
        "calibration_error": calibration_error(scored) if "count" in scored else None,
        "followed": 0,
        "over_steps": None,
        "diverged": None,
    }
    steps = over_steps(model)
    if len(steps) == 1:
        return diagnosis
    evaluated = algorithms.steps_at_evaluation(model.algorithm, vars(model.h))
    few = frozen.between(tasks, 0, FOLLOWED)
    as_evaluated = {key: values[:FOLLOWED] for key, values in scored.items()}
    followed = {
        step: as_evaluated if step == evaluated else _score(changed, images, few, traces)
        for step, changed in steps.items()
    }
    before, after = followed[0]["support_loss"], as_evaluated["support_loss"]
    return {
        **diagnosis,
        "followed": len(before),
        "over_steps": [_point(step, each["score"], metric) for step, each in followed.items()],
        "diverged": float((~(after <= before)).mean()),  # also where either is NaN
    }


def over_steps(model: Model) -> dict[int, Model]:
    """Return the model as it is evaluated after so many inner steps; without an inner loop, as it is."""
    names = model.algorithm.inner_steps
    if not names:
        return {0: model}
    evaluated = algorithms.steps_at_evaluation(model.algorithm, vars(model.h))
    steps = {*range(STEPS + 1), *(step for step in FURTHER if step < evaluated), evaluated}
    return {
        step: model._replace(h=dataclasses.replace(model.h, **{names[0]: step})) for step in sorted(steps)
    }


def _score(
    model: Model, images: Tensor, tasks: FrozenTasks, traces: TraceCache | None
) -> dict[str, NDArray[np.float64]]:
    def look(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        outputs = algorithm.predict(net, learner, task.query.x)
        score = net.objective.score(outputs, task.query.y)
        if net.environment is None:
            at_support = algorithm.predict(net, learner, task.support.x)
            figures = {"score": score, "support_loss": net.objective.loss(at_support, task.support.y)}
        else:  # each step descends a loss of its own trajectories, which says nothing about the others'
            figures = {"score": score, "support_loss": -score}
        if net.objective.metric.unit == "%":
            figures |= binned(outputs, task.query.y)
        return figures

    return evaluate.over(look, model, images, tasks, traces)


def binned(logits: Tensor, y: Tensor) -> Tree:
    """Count a task's queries by the confidence of the guess, and add up confidence and hits: [BINS]."""
    confidence, guess = logits.softmax(-1).max(-1)
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    belongs = (place[:, None] == torch.arange(BINS, device=y.device)).to(logits.dtype)  # [n, BINS]
    hits = (guess == y).to(logits.dtype)
    return {"count": belongs.sum(0), "confidence": confidence @ belongs, "hits": hits @ belongs}


def calibration_error(scored: Mapping[str, NDArray[np.float64]]) -> float:
    """Return the expected calibration error of tasks' binned queries."""
    count, confidence, hits = (scored[key].sum(0) for key in ("count", "confidence", "hits"))
    return float(np.abs(confidence - hits).sum() / count.sum())


def _point(step: int, score: NDArray[np.float64], metric: Metric) -> dict[str, float]:
    interval = stats.mean_interval(score, metric.scale)
    return {"step": step, "mean": interval.mean, "ci_low": interval.low, "ci_high": interval.high}


def scalars(diagnosis: dict[str, Any], metric: Metric) -> list[tuple[int, dict[str, float]]]:
    """Turn a diagnosis into TensorBoard's scalars: (inner step, values by tag)."""
    once = {
        f"diagnostics/{key}": diagnosis[key]
        for key in ("worst_tenth", "calibration_error", "diverged")
        if diagnosis[key] is not None
    }
    curve = [
        (point["step"], {f"diagnostics/{metric}_over_inner_steps": point["mean"]})
        for point in diagnosis["over_steps"] or []
    ]
    return [(0, once), *curve]
