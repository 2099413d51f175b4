"""Alpha-MAML: MAML whose inner and outer learning rates follow their own hypergradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
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
class Settings(inner.OrderedSettings):
    """Where both rates start, how fast they move, and what keeps them safe."""

    inner_lr: float = setting(0.1, "first inner learning rate alpha", above=0)
    alpha_lr: float = setting(1e-2, "rate at which alpha follows its hypergradient", minimum=0)
    beta_lr: float = setting(1e-8, "rate at which beta follows its hypergradient", minimum=0)
    alpha_min: float = setting(1e-5, "smallest alpha", above=0)
    alpha_max: float = setting(10.0, "largest alpha", above=0)
    beta_min: float = setting(1e-6, "smallest beta", above=0)
    beta_max: float = setting(0.1, "largest beta", above=0)
    max_change: float = setting(0.1, "largest change of a rate in one meta-update, as a share of it", above=0)
    alpha_gradient: str = setting(
        "exact",
        "hypergradient of alpha: through all steps, or -<query gradient, sum or last of inner gradients>",
        choices=("exact", "dot_sum", "dot_last"),
    )


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = net.init(generator)
    like = trees.leaves(theta)[0]
    return {"theta": theta, "alpha": torch.as_tensor(h.inner_lr, dtype=like.dtype, device=like.device)}, {}


def descend(
    net: Net, meta: Tree, support: Support, h: Settings, steps: int, derivative: str
) -> tuple[Tree, list[Tree]]:
    """Return the adapted layers and the inner gradients that led there."""
    fast, slow = inner.partition(net, meta["theta"], h.adapt_norm)
    alpha = meta["alpha"] if h.alpha_gradient == "exact" else meta["alpha"].detach()
    directions = []
    loss = partial(inner.support_loss, net)
    for batch in inner.batches(support, steps):
        direction, _ = inner.gradient(loss, fast, slow, batch, derivative, h.inner_clip, h.recompute)
        # alg. 2: theta' = theta - alpha * grad L_S(theta)
        fast = trees.map(lambda w, g: w - alpha * g, fast, direction)
        directions.append(direction)
    return {**slow, **fast}, directions


def with_dots(phi: Tree, alpha: Tensor, directions: list[Tree]) -> Tree:
    """Leave phi as it is, but for d phi / d alpha, which becomes minus the sum of the given gradients."""
    zero = alpha - alpha.detach()
    moved = {name: phi[name] for name in directions[0]}
    for direction in directions:
        moved = trees.map(lambda w, g: w - zero * g.detach(), moved, direction)
    return {**phi, **moved}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    phi, directions = descend(net, meta, task.support, h, h.inner_steps, h.derivative)
    if directions and h.alpha_gradient != "exact":
        # sec. 3: d L_Q / d alpha is about -<grad L_Q(theta'), grad L_S>, for more than one step a surrogate
        chosen = directions if h.alpha_gradient == "dot_sum" else directions[-1:]
        phi = with_dots(phi, meta["alpha"], chosen)
    outputs = inner.predict(net, inner.adapted(net, phi, task.support), task.query.x)
    return inner.judge(net, outputs, task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    phi, _ = descend(net, meta, support, h, inner.steps_at_evaluation(h), "first")
    return inner.adapted(net, phi, support)


def move(
    rate: Tensor, change: Tensor, low: float, high: float, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a change to a learning rate within its safeguards.

    Returns the new rate, whether a limit was hit, and whether a non-finite change was skipped (both 0 or 1).
    """
    skipped = ~change.isfinite()
    wanted = torch.where(skipped, torch.zeros_like(change), change)
    limited = wanted.clamp(-share * rate, share * rate)
    moved = (rate + limited).clamp(low, high)
    return moved, (moved != rate + wanted).to(rate.dtype), skipped.to(rate.dtype)


def optimizer(h: Settings) -> Optimizer:
    rule, factor = optim.RULES[h.outer_optimizer](), optim.schedule(h)

    def start(meta: Tree) -> Tree:
        theta = meta["theta"]
        beta = torch.as_tensor(h.outer_lr, dtype=meta["alpha"].dtype, device=meta["alpha"].device)
        return {"rule": rule.init(theta), "beta": beta, "direction": trees.map(torch.zeros_like, theta)}

    def update(gradient: Tree, state: Tree, meta: Tree, progress: float) -> tuple[Tree, Tree, Logs]:
        # d L_Q / d beta = -<G_t, previous direction>; with SGD that is G_(t-1), times its schedule's factor
        beta_change = h.beta_lr * trees.dot(gradient["theta"], state["direction"])
        beta, beta_limited, beta_skipped = move(
            state["beta"], beta_change, h.beta_min, h.beta_max, h.max_change
        )
        # d L_Q / d alpha comes exactly, through all inner steps, from the meta-gradient
        alpha_change = -h.alpha_lr * gradient["alpha"]
        alpha, alpha_limited, alpha_skipped = move(
            meta["alpha"], alpha_change, h.alpha_min, h.alpha_max, h.max_change
        )
        clipped = optim.clip(gradient["theta"], h.outer_clip)
        direction, rule_state = rule.direction(clipped, state["rule"])
        direction = trees.map(lambda d: d * factor(progress), direction)
        theta = trees.map(lambda w, d: w - beta * d, meta["theta"], direction)
        logs: dict[str, Any] = {
            "lr/outer": beta * factor(progress),
            "lr/inner": alpha,
            "lr/inner_hypergradient": gradient["alpha"],
        }
        logs |= {"lr/inner_limited": alpha_limited, "lr/outer_limited": beta_limited}
        logs |= {"lr/inner_skipped": alpha_skipped, "lr/outer_skipped": beta_skipped}
        return (
            {"theta": theta, "alpha": alpha},
            {"rule": rule_state, "beta": beta, "direction": direction},
            logs,
        )

    return Optimizer(start, update)


def check(h: Settings) -> list[str]:
    limits = {"inner_lr": (h.alpha_min, h.alpha_max), "outer_lr": (h.beta_min, h.beta_max)}
    return [
        f"{name}={getattr(h, name)}: must start within its limits [{low}, {high}]; change it or them"
        for name, (low, high) in limits.items()
        if not low <= getattr(h, name) <= high
    ]


ALGORITHMS = {
    "alpha_maml": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optimizer,
        also_called=("α-MAML",),
        reference="Behl, Baydin and Torr 2019, arXiv 1905.07435, algorithm 2. The hypergradient of alpha is "
        "exact for any number of inner steps where the paper takes one; that of beta uses one dot product "
        "over all tensors, with Adam's direction where Adam is the outer optimiser (Baydin et al. 2018, "
        "algorithm 5). Limits on both rates are additions. With first-order inner gradients the exact "
        "hypergradient is that of dot_sum.",
        kinds=("classification", "regression", "control"),
        inner_steps=inner.INNER_STEPS,
        head="linear",
        inner_rates=InnerRates("alpha", first="inner_lr"),
        has_recompute=True,
        check=check,
    )
}
