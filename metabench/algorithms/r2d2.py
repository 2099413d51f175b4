"""R2-D2: an embedding on which ridge regression, solved in closed form, classifies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Logs, Net, Optimizer, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings(optim.Settings):
    """Where the three learned numbers beside the embedding start."""

    ridge: float = setting(1.0, "first value of the learned regularisation lambda", above=0)
    output_scale: float = setting(10.0, "first value of the learned factor alpha of the outputs", above=0)


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = inner.init_body(net, generator)
    like = trees.leaves(theta)[0]

    def number(value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    numbers = {"log_lambda": number(h.ridge).log(), "alpha": number(h.output_scale), "beta": number(0.0)}
    return {"theta": theta, **numbers}, {}


def solve(x: Tensor, y: Tensor, ridge: Tensor) -> Tensor:
    """Return the minimiser of |X W - Y|^2 + lambda |W|^2: [F, N]."""
    # Woodbury: (X^T X + lambda I)^-1 X^T Y = X^T (X X^T + lambda I)^-1 Y, a system of N*K rows and not F
    # By shape and not len(), which an exported graph would hold fast.
    identity = torch.eye(x.shape[0], dtype=x.dtype, device=x.device)
    # In two steps, as torch.linalg.solve asks a GPU, and waits, whether there is a solution; here there is.
    factors, pivots, _ = torch.linalg.lu_factor_ex(x @ x.T + ridge * identity)
    return x.T @ torch.linalg.lu_solve(factors, pivots, y)


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    learner = adapt(net, meta, buffers, task.support, h)
    return inner.judge(net, predict(net, learner, task.query.x), task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    features, moments = net.embed(meta["theta"], support.x)
    learner = inner.adapted(net, meta["theta"], support, moments)
    targets = (support.y[:, None] == torch.arange(net.way, device=support.y.device)).to(features.dtype)
    w = solve(features, targets, meta["log_lambda"].exp())
    return {**learner, "w": w, "alpha": meta["alpha"], "beta": meta["beta"]}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features, _ = inner.embed(net, learner, x)
    # sec. 3.2: Y' = alpha X' W + beta
    return learner["alpha"] * (features @ learner["w"]) + learner["beta"]


def optimizer(h: Settings) -> Optimizer:
    outer = optim.descend(h)

    def update(gradient: Tree, state: Tree, meta: Tree, progress: float) -> tuple[Tree, Tree, Logs]:
        meta, state, logs = outer.update(gradient, state, meta, progress)
        learned = {"ridge/lambda": meta["log_lambda"].exp(), "ridge/alpha": meta["alpha"]}
        return meta, state, {**logs, **learned}

    return Optimizer(outer.init, update)


ALGORITHMS = {
    "r2d2": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=predict,
        optimizer=optimizer,
        head="linear",
        is_of_features=True,
        reference="Bertinetto et al. 2019, arXiv 1805.08136, section 3.2: ridge regression by the Woodbury "
        "identity, then Y' = alpha X' W + beta under the cross-entropy. lambda is learnt through its "
        "logarithm, so that it stays positive. beta moves all classes alike, so the cross-entropy neither "
        "sees nor trains it. As in the paper's equations, and unlike in the authors' code, features gain no "
        "column of ones and the squared errors are summed, not averaged, over the support set. The starts "
        "of lambda and alpha are settings; at alpha = 1 outputs within about [0, 1] leave the softmax flat.",
    )
}
