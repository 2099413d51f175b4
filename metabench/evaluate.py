"""Adapt and predict over frozen tasks; meta-validation and meta-test are this one function."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from metabench import episodes, inner, vectorise
from metabench.core import Algorithm, Net, Task, Tree
from metabench.episodes import FrozenTasks, Indices

BLOCK = 50
"""Tasks that are gathered and adapted at once."""


class Evaluation(NamedTuple):
    """Accuracy in [0, 1] and mean cross-entropy of each task's queries."""

    accuracy: NDArray[np.float64]  # [T]
    loss: NDArray[np.float64]  # [T]


def evaluate(
    algorithm: Algorithm, net: Net, meta: Tree, buffers: Tree, h: Any, images: Tensor, tasks: FrozenTasks
) -> Evaluation:
    """Adapt to each frozen task's support set and score its queries."""

    def score(task: Task) -> Tree:
        learner = algorithm.adapt(net, meta, buffers, task.support, h)
        logits = algorithm.predict(net, learner, task.query.x)
        return {
            "accuracy": inner.accuracy(logits, task.query.y),
            "loss": F.cross_entropy(logits, task.query.y),
        }

    return _over(tasks, lambda part: vectorise.per_task(score, _gather(images, part, tasks.shot), BLOCK))


def nearest_mean(images: Tensor, tasks: FrozenTasks) -> Evaluation:
    """Score the nearest class mean of raw pixels by cosine: the floor for anything that learns."""

    def score(task: Task) -> Tree:
        rows = F.normalize(task.support.x.flatten(1), dim=-1)
        way = rows.shape[0] // tasks.shot
        means = F.normalize(rows.reshape(way, tasks.shot, -1).mean(1), dim=-1)  # support is sorted by class
        logits = F.normalize(task.query.x.flatten(1), dim=-1) @ means.T
        return {
            "accuracy": inner.accuracy(logits, task.query.y),
            "loss": F.cross_entropy(logits, task.query.y),
        }

    return _over(tasks, lambda part: vectorise.per_task(score, _gather(images, part, tasks.shot), BLOCK))


def _gather(images: Tensor, part: Indices, shot: int) -> Task:
    return episodes.gather(images, part, shot)


def _over(tasks: FrozenTasks, score: Any) -> Evaluation:
    n_tasks = len(tasks.indices.classes)
    scores = []
    for start in range(0, n_tasks, BLOCK):
        scores.append(score(Indices(*(index[start : start + BLOCK] for index in tasks.indices))))
    columns = {name: torch.cat([part[name] for part in scores]) for name in ("accuracy", "loss")}
    return Evaluation(*(columns[name].double().cpu().numpy() for name in ("accuracy", "loss")))
