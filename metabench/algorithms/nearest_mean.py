"""Nearest mean of raw pixels: the floor for anything that learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""


def init(net: Net, h: Any, generator: Generator) -> tuple[Tree, Tree]:
    return {}, {}


def task_loss(net: Net, meta: Tree, buffers: Tree, task: Task, h: Any, progress: float) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Any) -> Tree:
    rows = F.normalize(support.x.flatten(1), dim=-1)
    return {"means": F.normalize(inner.class_means(rows, support.y, net.way), dim=-1)}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    return F.normalize(x.flatten(1), dim=-1) @ learner["means"].T


ALGORITHMS = {
    "nearest_mean": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=lambda h: optim.still(),
        reference="Cosine to the mean of each class's normalised support images; nothing is learnt.",
        is_trained=False,
        compares=lambda h: True,
        batch_norm=lambda net, h: None,
    )
}
