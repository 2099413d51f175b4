"""MAML and first-order MAML: an initialisation from which a few gradient steps learn a task."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Generator, Tensor

from metabench import inner, optim, trees
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree


def init(net: Net, h: inner.Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": net.init(generator)}, {}


def descend(net: Net, theta: Tree, support: Support, h: inner.Settings, steps: int, derivative: str) -> Tree:
    fast, slow = inner.partition(net, theta, h.adapt_norm)
    for _ in range(steps):
        direction, _ = inner.gradient(
            lambda params: inner.support_loss(net, params, support), fast, slow, derivative, h.inner_clip
        )
        # sec. 2.2: theta' = theta - alpha * grad L_S(theta)
        fast = trees.map(lambda w, g: w - h.inner_lr * g, fast, direction)
    return {**slow, **fast}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: inner.Settings, progress: float, derivative: str
) -> tuple[Tensor, Aux]:
    phi = descend(net, meta["theta"], task.support, h, h.inner_steps, derivative)
    # eq. 1: the meta-objective is L_Q(theta')
    logits, _ = net.apply(phi, task.query.x, inner.query_moments(net, phi, task.support))
    loss = F.cross_entropy(logits, task.query.y)
    return loss, Aux({"accuracy": inner.accuracy(logits, task.query.y)}, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: inner.Settings) -> Tree:
    phi = descend(net, meta["theta"], support, h, h.eval_steps or h.inner_steps, "first")
    return {"params": phi, "moments": inner.query_moments(net, phi, support)}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    return net.apply(learner["params"], x, learner["moments"])[0]


def optimizer(h: Any) -> Any:
    return optim.descend(h)


MAML = Algorithm(
    hparams=inner.Settings,
    init=init,
    task_loss=partial(task_loss, derivative="second"),
    adapt=adapt,
    predict=predict,
    optimizer=optimizer,
    reference="Finn, Abbeel and Levine 2017, arXiv 1703.03400, algorithm 2. The mean over tasks and examples "
    "replaces the sums; norm layers are not adapted unless adapt_norm asks for it.",
)

ALGORITHMS = {
    "maml": MAML,
    "fomaml": MAML._replace(
        task_loss=partial(task_loss, derivative="first"),
        reference="Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.2: the inner gradient "
        "is a constant.",
    ),
}
