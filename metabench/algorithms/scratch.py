"""Training from scratch: what a task's support set teaches a network that has seen no other task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings:
    """The descent on the support set; there is no outer loop."""

    inner_lr: float = setting(0.1, "learning rate alpha", minimum=0)
    inner_steps: int = setting(20, "steps on the whole support set", minimum=0)


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": net.init(generator)}, {}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, trees.map(torch.Tensor.detach, meta), buffers, task.support, h)
    return inner.judge(net, inner.predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    phi = meta["theta"]
    for batch in inner.batches(support, h.inner_steps):
        gradient, _ = inner.gradient(partial(inner.support_loss, net), phi, {}, batch, "first")
        phi = trees.map(lambda w, g: w - h.inner_lr * g, phi, gradient)
    return inner.adapted(net, phi, support)


ALGORITHMS = {
    "scratch": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=lambda h: optim.still(),
        reference="All layers of a randomly initialised network descend the support loss; every task "
        "starts from the same initialisation, which the run's seed draws and nothing improves.",
        kinds=("classification", "regression", "control"),
        inner_steps=("inner_steps",),
        is_trained=False,
    )
}
