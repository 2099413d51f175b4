"""Ridge regression on the support set: the floor for anything that learns to predict numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms.r2d2 import solve
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting


@dataclass(frozen=True)
class Settings:
    """How strongly weights are drawn to zero."""

    penalty: float = setting(1.0, "lambda, of the squared weights beside the summed squared errors", above=0)


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {}, {}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    # Around the means the intercept is free: it is not drawn to zero.
    mean_x, mean_y = support.x.mean(0), support.y.mean(0)
    penalty = torch.as_tensor(h.penalty, dtype=support.x.dtype, device=support.x.device)
    return {"w": solve(support.x - mean_x, support.y - mean_y, penalty), "x": mean_x, "y": mean_y}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    return (x - learner["x"]) @ learner["w"] + learner["y"]


ALGORITHMS = {
    "ridge": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=lambda h: optim.still(),
        reference="Hoerl and Kennard 1970: w = argmin |X w - y|^2 + lambda |w|^2 on the support set's inputs "
        "themselves, around their means, so that the intercept is free; nothing is learnt across tasks.",
        kinds=("regression",),
        is_trained=False,
        batch_norm=lambda net, h: None,
    )
}
