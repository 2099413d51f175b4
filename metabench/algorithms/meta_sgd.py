"""Meta-SGD: an initialisation and a learned rate for each of its elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _policy_search as policies
from metabench.core import (
    Algorithm,
    Aux,
    InnerRates,
    Logs,
    Net,
    Optimizer,
    Support,
    Task,
    Tree,
    setting,
    trees,
)


@dataclass(frozen=True)
class Settings(policies.SampledSettings, inner.OrderedSettings):
    """One inner step is the paper's; more share their rates."""

    inner_lr: float = setting(0.1, "first value of the learned rates", minimum=0)
    inner_lr_spread: float = setting(
        0.0,
        "the first rates are drawn uniformly from inner_lr times 1 minus and plus this",
        minimum=0,
        maximum=1,
    )
    inner_steps: int = setting(1, "inner steps K in meta-training", minimum=0)
    rates: str = setting("element", "one learned rate for each of these", choices=("element", "tensor"))


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = net.init(generator)
    fast, _ = inner.partition(net, theta, h.adapt_norm)

    def rates(w: Tensor) -> Tensor:
        shape = w.shape if h.rates == "element" else ()
        spread = (torch.rand(shape, generator=generator) * 2 - 1) * h.inner_lr_spread
        return (1 + spread.to(w.dtype)) * h.inner_lr

    return {"theta": theta, "alpha": trees.map(rates, fast)}, {}


def descend(net: Net, meta: Tree, support: Support, h: Settings, steps: int, derivative: str) -> Tree:
    fast, slow = inner.partition(net, meta["theta"], h.adapt_norm)
    loss = partial(inner.support_loss, net)
    for batch in inner.batches(support, steps):
        direction, _ = inner.gradient(loss, fast, slow, batch, derivative, h.inner_clip, h.recompute)
        # eq. 2: theta' = theta - alpha o grad L_S(theta)
        fast = trees.map(lambda w, a, g: w - a * g, fast, meta["alpha"], direction)
    return {**slow, **fast}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    def adapted(steps: int) -> Tree:
        return descend(policies.sampled(net, h), meta, task.support, h, steps, h.derivative)

    learner = inner.adapted(net, adapted(h.inner_steps), task.support)
    loss, aux = inner.judge(net, inner.predict(net, learner, task.query.x), task.query.y, buffers)
    return policies.with_sampling(loss, net, task, h, adapted), aux


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    phi = descend(net, meta, support, h, inner.steps_at_evaluation(h), "first")
    return inner.adapted(net, phi, support)


def optimizer(h: Settings) -> Optimizer:
    outer = policies.outer(h)

    def logged(of: Callable[..., tuple[Tree, Tree, Logs]], *arguments: Any) -> tuple[Tree, Tree, Logs]:
        meta, state, logs = of(*arguments)
        means = {f"lr/inner/{name}": rates.mean() for name, rates in trees.items(meta["alpha"])}
        return meta, state, {**logs, **means}

    search = outer.search and partial(logged, outer.search)
    return Optimizer(outer.init, partial(logged, outer.update), search)


ALGORITHMS = {
    "meta_sgd": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optimizer,
        reference="Li et al. 2017, arXiv 1707.09835, algorithm 1 and equation 2. Rates start alike unless "
        "inner_lr_spread spreads them; their signs are free, as in the paper.",
        kinds=("classification", "regression", "control"),
        inner_steps=inner.INNER_STEPS,
        head="linear",
        inner_rates=InnerRates("alpha", first="inner_lr"),
        has_recompute=True,
    )
}
