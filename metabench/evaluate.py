"""Adapt and predict over frozen tasks; meta-validation and meta-test are this one function."""

from __future__ import annotations

from collections.abc import Callable
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
        return _scores(logits, task.query.y)

    return _over(score, images, tasks)


def nearest_mean(images: Tensor, tasks: FrozenTasks) -> Evaluation:
    """Score the nearest class mean of raw pixels by cosine: the floor for anything that learns."""

    def score(task: Task) -> Tree:
        rows = F.normalize(task.support.x.flatten(1), dim=-1)
        way = rows.shape[0] // tasks.shot
        means = F.normalize(rows.reshape(way, tasks.shot, -1).mean(1), dim=-1)  # support is sorted by class
        logits = F.normalize(task.query.x.flatten(1), dim=-1) @ means.T
        return _scores(logits, task.query.y)

    return _over(score, images, tasks)


def _scores(logits: Tensor, y: Tensor) -> Tree:
    return {"accuracy": inner.accuracy(logits, y), "loss": F.cross_entropy(logits, y)}


def _over(score: Callable[[Task], Tree], images: Tensor, tasks: FrozenTasks) -> Evaluation:
    blocks = []
    for start in range(0, len(tasks.indices.classes), BLOCK):
        part = Indices(*(index[start : start + BLOCK] for index in tasks.indices))
        blocks.append(vectorise.per_task(score, episodes.gather(images, part, tasks.shot)))
    return Evaluation(
        *(torch.cat([b[key] for b in blocks]).double().cpu().numpy() for key in ("accuracy", "loss"))
    )
