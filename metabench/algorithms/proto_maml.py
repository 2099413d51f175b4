"""Proto-MAML: MAML whose head starts as the prototypes of the support set."""

from __future__ import annotations

from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms import maml
from metabench.core import HEAD, Algorithm, Aux, Net, Support, Task, Tree


def init(net: Net, h: inner.OrderedSettings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": inner.init_body(net, generator)}, {}


def with_head(net: Net, theta: Tree, support: Support) -> Tree:
    """Put the linear layer that classifies as the nearest prototype does on top of theta."""
    features, _ = net.embed(theta, support.x)
    c = inner.class_means(features, support.y, net.way)
    # sec. 3: w_k = 2 c_k, b_k = -|c_k|^2
    return {**theta, HEAD: inner.nearest_prototype(c)}


def descend(
    net: Net, theta: Tree, support: Support, h: inner.OrderedSettings, steps: int, derivative: str
) -> Tree:
    return maml.descend(net, with_head(net, theta, support), support, h, steps, derivative, part="all")


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: inner.OrderedSettings, progress: float
) -> tuple[Tensor, Aux]:
    phi = descend(net, meta["theta"], task.support, h, h.inner_steps, h.derivative)
    outputs = inner.predict(net, inner.adapted(net, phi, task.support), task.query.x)
    return inner.judge(net, outputs, task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: inner.OrderedSettings) -> Tree:
    phi = descend(net, meta["theta"], support, h, inner.steps_at_evaluation(h), "first")
    return inner.adapted(net, phi, support)


ALGORITHMS = {
    "proto_maml": Algorithm(
        hparams=inner.OrderedSettings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optim.descend,
        reference="Triantafillou et al. 2020, arXiv 1903.03096, section 3. The meta-gradient flows through "
        "the head's start whatever the derivative setting, which concerns the inner gradients alone. The "
        "paper's experiments take first-order inner gradients; second order is the default here, as for "
        "MAML. Norm layers are not adapted unless adapt_norm asks for it.",
        inner_steps=inner.INNER_STEPS,
        head="linear",
        has_recompute=True,
        compares=lambda h: True,
    )
}
