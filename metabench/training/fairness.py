"""What a run grants to two groups: counts by task, of its guesses and by a threshold for each group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from metabench import stats
from metabench.core import Splits, Task, Tree
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen
from metabench.data.tasks.frozen import FrozenTasks
from metabench.training import evaluate
from metabench.training.vectorise import Model

TASKS = 200
"""Tasks of meta-validation, which no rung has judged by, that thresholds are chosen on."""


def outcomes(model: Model, images: Tensor, tasks: FrozenTasks) -> dict[str, Any]:
    """Return each query's probability of the wanted outcome, and its label and group: [T, Q] each."""

    def look(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        query: Any = task.query
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        p = algorithm.predict(net, learner, query.x).softmax(-1)[:, 1]
        return {"p": p, "y": query.y, "group": query.group}

    seen = evaluate.over(look, model, images, tasks)
    return {"p": seen["p"], "y": seen["y"].astype(np.int64), "group": seen["group"].astype(np.int64)}


def counted(
    model: Model, splits: Splits, task: TaskConfig, images: Tensor, tasks: FrozenTasks
) -> Mapping[str, Any]:
    """Count the queries of frozen tasks by group, label and guess, for the result of a test.

    Beside the guesses stand those by a threshold for each group, chosen on meta-validation where groups are
    known there, too, as one may who is told of each query's group.

    Args:
        splits: the data of the run, whose meta-validation thresholds are chosen on.
        images: those that the tasks are drawn from.
    """
    p, y, group = outcomes(model, images, tasks).values()
    result: dict[str, Any] = {"groups": stats.count(p > 0.5, y, group).tolist()}
    if not splits.meta_validation.has_group:
        return result
    before = frozen.frozen(splits, "meta_validation", task, TASKS, "calibration")
    chosen = stats.thresholds(**outcomes(model, splits.meta_validation.images.to(images.device), before))
    if chosen is not None:
        guess = p > np.take(chosen, group)
        result |= {"thresholds": chosen, "groups_at_thresholds": stats.count(guess, y, group).tolist()}
    return result
