"""What unlabelled images do for a learner: its figures without them, and which of them it took."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from metabench.core import Task, Tree
from metabench.data.tasks import frozen
from metabench.data.tasks.frozen import FrozenTasks
from metabench.training import evaluate
from metabench.training.vectorise import Model


def compare(model: Model, images: Tensor, tasks: FrozenTasks) -> dict[str, Any]:
    """Score the very same tasks with fewer unlabelled images; nothing where none are read.

    Returns:
        METRIC_without_unlabelled: the figure of each task without any.
        METRIC_without_distractors: with those of the task's classes alone, where there are others.
        unlabelled: how many there are of each class, of how many other classes; how far those of the task's
            classes, and distractors, were taken for such on average; and the mean over tasks of the area
            under the curve by which that tells them apart.
    """
    shape, metric = tasks.groups[0].shape, model.net.objective.metric  # groups differ in way and shot alone
    if model.algorithm.taken is None or not shape.unlabelled:
        return {}

    def without(part: frozen.Beside) -> list[float]:
        figures: list[float] = evaluate.evaluate(model, images, frozen.without(tasks, part)).score.tolist()
        return figures

    figures = {f"{metric}_without_unlabelled": without("unlabelled")}
    if shape.distractors:
        figures[f"{metric}_without_distractors"] = without("distractors")
    counts = {"of_each_class": shape.unlabelled, "distractors": shape.distractors}
    return {**figures, "unlabelled": {**counts, **_taken(model, images, tasks)}}


def _taken(model: Model, images: Tensor, tasks: FrozenTasks) -> dict[str, float | None]:
    def take(model: Model, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        assert algorithm.taken is not None, "or there is nothing to compare"
        return {"taken": algorithm.taken(algorithm.adapt(net, meta, buffers, task.support, h))}

    of_classes, others, areas = [], [], []
    for group in tasks.groups:
        taken = evaluate.over(take, model, images, frozen.FrozenTasks((group,), tasks.hash))["taken"]
        is_own = frozen.is_own(group).numpy()
        ours, theirs = (taken[where].reshape(len(taken), -1) for where in (is_own, ~is_own))
        of_classes.append(ours.ravel())
        others.append(theirs.ravel())
        if group.shape.distractors:
            above, ties = (sign(ours[:, :, None], theirs[:, None]) for sign in (np.greater, np.equal))
            areas.append((above + 0.5 * ties).mean((1, 2)))
    means = [
        float(np.concatenate(each).mean()) if sum(map(len, each)) else None for each in (of_classes, others)
    ]
    area = float(np.concatenate(areas).mean()) if areas else None
    return {"taken": means[0], "taken_distractors": means[1], "auroc": area}
