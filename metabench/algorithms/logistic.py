"""Logistic regression on the support set's features: the usual baseline on a frozen backbone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings:
    """How large weights may be, and how closely the minimum is come to."""

    penalty: float = setting(1.0, "factor of half the squared weights beside the summed loss", above=0)
    iterations: int = setting(50, "steps towards the minimum", minimum=1)


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": inner.init_body(net, generator)}, {}


def solve(x: Tensor, y: Tensor, penalty: float, iterations: int) -> Tensor:
    """Return the minimiser of the summed cross-entropy of x W, plus penalty |W|^2 / 2: [F, N].

    Args:
        y: labels as rows of zeros and a one, [n, N].
    """
    # W = X^T A, as the minimiser lies in the span of the rows; and no Hessian of the loss is above X X^T / 2
    # (Boehning 1992), so that each step minimises a bound.
    kernel = x @ x.T
    bound = kernel / 2 + penalty * torch.eye(x.shape[0], dtype=x.dtype, device=x.device)
    factors, pivots, _ = torch.linalg.lu_factor_ex(bound)
    a = torch.zeros_like(y)
    for _ in range(iterations):
        residual = (kernel @ a).softmax(-1) - y + penalty * a
        a = a - torch.linalg.lu_solve(factors, pivots, residual)
    return x.T @ a


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, trees.map(Tensor.detach, meta), buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    features, moments = net.embed(meta["theta"], support.x)
    targets = (support.y[:, None] == torch.arange(net.way, device=support.y.device)).to(features.dtype)
    w = solve(features, targets, h.penalty, h.iterations)
    return {**inner.adapted(net, meta["theta"], support, moments), "w": w}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features, _ = inner.embed(net, learner, x)
    return features @ learner["w"]


ALGORITHMS = {
    "logistic": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=lambda h: optim.still(),
        head="linear",
        is_of_features=True,
        also_called=("Logistic regression",),
        reference="Multinomial logistic regression on the support set's features, without an intercept, "
        "minimised by Boehning's bound (1992); nothing is learnt across tasks, so it is of use on a frozen "
        "backbone.",
        is_trained=False,
    )
}
