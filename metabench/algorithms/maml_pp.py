"""MAML++: MAML with six stabilising parts, each of which can be switched off alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import (
    HEAD,
    Algorithm,
    Aux,
    InnerRates,
    Net,
    Optimizer,
    Support,
    Task,
    Tree,
    normalised_by,
    setting,
    trees,
)

MOMENTUM = 0.1
"""Weight of a new batch in the running statistics, as in torch's batch norm."""


@dataclass(frozen=True)
class Settings(inner.Settings):
    """MAML's settings and a switch for each part."""

    inner_lr: float = setting(
        0.1, "inner learning rate; where rates are learned, their first value", minimum=0
    )
    multi_step_loss: bool = setting(True, "early on, weigh in the query loss after every inner step (MSL)")
    multi_step_fraction: float = setting(
        0.1, "share of training during which MSL is annealed", minimum=0, maximum=1
    )
    learned_rates: bool = setting(True, "learn one inner rate a tensor and step (LSLR)")
    derivative_annealing: bool = setting(True, "start with first-order meta-gradients (DA)")
    first_order_fraction: float = setting(
        0.3, "share of training that is first order (DA)", minimum=0, maximum=1
    )
    per_step_weights: bool = setting(True, "one scale and shift of each batch norm an inner step (BNWB)")
    per_step_statistics: bool = setting(False, "evaluate with running moments, one set an inner step (BNRS)")
    cosine: bool = setting(True, "cosine outer learning rate (CA)")


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = net.init(generator)
    n_steps = max(h.inner_steps, 1)
    meta = {"theta": theta}
    if h.learned_rates:
        fast, _ = inner.partition(net, theta, h.adapt_norm)
        meta["alpha"] = trees.map(lambda w: w.new_ones(n_steps) * h.inner_lr, fast)
    if h.per_step_weights and not h.adapt_norm:
        per_step = {
            name: trees.map(lambda w: w.expand(n_steps, -1).clone(), theta[name]) for name in net.norms
        }
        meta["theta"] = {**theta, **per_step}
    buffers: Tree = {}
    if h.per_step_statistics:
        like = trees.leaves(theta)[0]
        for name, n_channels in net.norm_channels.items():
            buffers[name] = {
                "mean": like.new_zeros(n_steps, n_channels),
                "var": like.new_ones(n_steps, n_channels),
            }
    return meta, buffers


def at(step: int, net: Net, params: Tree, h: Settings) -> Tree:
    """Pick each batch norm's scale and shift for an inner step; later steps than trained for use the last."""
    if not h.per_step_weights or h.adapt_norm:
        return params
    return {**params, **{name: pick(step, params[name]) for name in net.norms}}


def pick(step: int, per_step: Tree) -> Tree:
    return trees.map(lambda rows: rows[min(step, len(rows) - 1)], per_step)


def inner_step(
    step: int,
    net: Net,
    meta: Tree,
    fast: Tree,
    slow: Tree,
    support: Support,
    h: Settings,
    derivative: str,
    moments: Tree,
) -> tuple[Tree, Tree]:
    """Take inner step `step`; return the fast weights after it and the batch norm moments it used."""
    direction, used = inner.gradient(
        lambda params, support: inner.support_loss(net, at(step, net, params, h), support, moments),
        fast, slow, support, derivative, h.inner_clip, h.recompute,
    )  # fmt: skip
    if not h.learned_rates:
        return trees.map(lambda w, g: w - h.inner_lr * g, fast, direction), used
    # eq. 4: one learned rate a tensor and step
    alpha = pick(step, meta["alpha"])
    return trees.map(lambda w, a, g: w - a * g, fast, alpha, direction), used


def multi_step_weights(n_steps: int, h: Settings, progress: float) -> list[float]:
    """Weigh the query loss after each of K inner steps; the weights sum to one (sec. 4, MSL).

    All steps start alike and the last one gains until `multi_step_fraction`; from there on it stands alone.
    """
    if n_steps < 2 or not h.multi_step_loss or progress >= h.multi_step_fraction:
        return [0.0] * (n_steps - 1) + [1.0]
    done = progress / h.multi_step_fraction
    floor = 0.03 / n_steps
    early = max((1 - done) / n_steps, floor)
    last = min((1 + done * (n_steps - 1)) / n_steps, 1 - (n_steps - 1) * floor)
    return [early] * (n_steps - 1) + [last]


def schedule(h: Settings, progress: float) -> tuple[bool, tuple[float | None, ...]]:
    """Say whether derivatives are of first order, and how each step's loss is weighed; None: not at all."""
    first = h.derivative_annealing and progress < h.first_order_fraction
    weights = multi_step_weights(max(h.inner_steps, 1), h, progress)
    return first, tuple(weight or None for weight in weights)


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, scheduled: tuple[bool, tuple[Any, ...]]
) -> tuple[Tensor, Aux]:
    first, weights = scheduled
    fast, slow = inner.partition(net, meta["theta"], h.adapt_norm)
    loss = task.query.x.new_zeros(())
    for step, weight in enumerate(weights):
        seen = []
        if h.inner_steps:
            derivative = "first" if first else "second"
            fast, used = inner_step(step, net, meta, fast, slow, task.support, h, derivative, None)
            seen.append(used)
        if weight is not None:
            params = at(step, net, {**slow, **fast}, h)
            learner = inner.adapted(net, params, task.support)
            features, used = inner.embed(net, learner, task.query.x)
            seen += [used] if used else []
            step_loss, aux = inner.judge(
                net, nets.outputs(net, params[HEAD], features), task.query.y, buffers
            )
            # eq. 3: sum over steps of v_i * L_Q(theta_i)
            loss = loss + weight * step_loss
        buffers = record(buffers, step, seen)
    return loss, aux._replace(buffers=buffers)


def record(buffers: Tree, step: int, seen: list[Tree]) -> Tree:
    """Move one step's running moments towards the average of those seen at it."""
    if not buffers or not seen:
        return buffers
    average = trees.map(lambda *moments: torch.stack(moments).mean(0).detach(), *seen)

    def blend(rows: Tensor, moment: Tensor) -> Tensor:
        is_step = (torch.arange(len(rows), device=rows.device) == step)[:, None]
        return torch.where(is_step, (1 - MOMENTUM) * rows + MOMENTUM * moment, rows)

    return trees.map(blend, buffers, average)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    fast, slow = inner.partition(net, meta["theta"], h.adapt_norm)
    n_steps = inner.steps_at_evaluation(h)
    for step in range(n_steps):
        moments = pick(step, buffers) if buffers else None
        fast, _ = inner_step(step, net, meta, fast, slow, support, h, "first", moments)
    last = max(n_steps - 1, 0)
    params = at(last, net, {**slow, **fast}, h)
    if buffers:
        return {"params": params, "moments": pick(last, buffers)}
    return inner.adapted(net, params, support)


def optimizer(h: Settings) -> Optimizer:
    inner_optimizer = optim.descend(h)

    def update(gradient: Tree, state: Tree, meta: Tree, progress: float) -> tuple[Tree, Tree, Any]:
        meta, state, logs = inner_optimizer.update(gradient, state, meta, progress)
        for name, rates in trees.items(meta.get("alpha", {})):
            logs = {**logs, **{f"lr/inner/{name}/{step}": rates[step] for step in range(len(rates))}}
        return meta, state, logs

    return Optimizer(inner_optimizer.init, update)


def batch_norm(net: Net, h: Settings) -> str | None:
    return "per_step_running" if h.per_step_statistics and net.norm_channels else normalised_by(net, h)


ALGORITHMS = {
    "maml_pp": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optimizer,
        reference="Antoniou, Edwards and Storkey 2019, arXiv 1810.09502, section 4. Schedules run over "
        "progress instead of epochs; the outer rate falls smoothly instead of by epoch; the outer clip is "
        "off by default. Batch norm weights are per step only where the inner loop leaves them alone, as in "
        "the authors' code. Running statistics are used at evaluation where asked for, which the authors' "
        "code never does; the test score is a single model's, not an ensemble of five.",
        kinds=("classification", "regression"),
        inner_steps=inner.INNER_STEPS,
        head="linear",
        inner_rates=InnerRates("alpha", first="inner_lr", is_per_step=True),
        has_recompute=True,
        batch_norm=batch_norm,
        schedule=schedule,
    )
}
