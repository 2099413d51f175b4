"""Descent on a support set without meta-learning: from a random network, or one trained on all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms import _policy_search as policies
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings:
    """The descent on the support set; there is no outer loop."""

    inner_lr: float = setting(0.1, "learning rate alpha", minimum=0)
    inner_steps: int = setting(20, "steps on the whole support set", minimum=0)


@dataclass(frozen=True)
class JointSettings(policies.Settings):
    """The outer loop's settings, and the descent on the support set, which meta-training leaves out."""

    inner_lr: float = setting(0.1, "learning rate alpha at evaluation", minimum=0)
    eval_steps: int = setting(1, "inner steps at evaluation; in meta-training there are none", minimum=0)


def init(net: Net, h: Any, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": net.init(generator)}, {}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, trees.map(torch.Tensor.detach, meta), buffers, task.support, h)
    return inner.judge(net, inner.predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Any, steps: str = "inner_steps") -> Tree:
    phi = meta["theta"]
    for batch in inner.batches(support, getattr(h, steps)):
        gradient, _ = inner.gradient(partial(inner.support_loss, net), phi, {}, batch, "first")
        phi = trees.map(lambda w, g: w - h.inner_lr * g, phi, gradient)
    return inner.adapted(net, phi, support)


def joint_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: JointSettings, progress: float
) -> tuple[Tensor, Aux]:
    learner = inner.adapted(net, meta["theta"], task.support)
    return inner.judge(net, inner.predict(net, learner, task.query.x), task.query.y, buffers)


ALGORITHMS = {
    "joint": Algorithm(
        hparams=JointSettings,
        init=init,
        task_loss=joint_loss,
        adapt=partial(adapt, steps="eval_steps"),
        predict=inner.predict,
        optimizer=policies.outer,
        also_called=("pretrained",),
        reference="Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5: the baseline trained on all "
        "tasks at once, by the loss of their queries, and fine-tuned on a new task's support set.",
        kinds=("regression", "control"),
        inner_steps=("eval_steps",),
    ),
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
        head="linear",
        is_trained=False,
    ),
}
