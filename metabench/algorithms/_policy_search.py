"""Outer optimisers that look at the same trajectories again: a trust region, and ratios that are limited."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Logs, Net, Optimizer, Task, Tree, setting, trees
from metabench.core.control import Collected, Moves, log_likelihood, sampling

ITERATIONS, DAMPING = 10, 1e-5
"""Of conjugate gradients, as in the MAML authors' code."""

SHORTENED, TRIES = 0.8, 15
"""By what a step that leads too far is multiplied, and how often it is tried; as there."""

APART = 1.5
"""How many times too far, or too near, policies are before the weight of their distance changes."""


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The outer loop's settings, where trajectories may be looked at again."""

    outer_optimizer: str = setting(
        "adam",
        "outer optimiser; trpo and promp look at a meta-batch of trajectories again, and are for control",
        choices=("adam", "sgd", "trpo", "promp"),
    )
    max_kl: float = setting(
        0.01, "trpo: the furthest that a meta-update may lead adapted policies, as KL", above=0
    )
    epochs: int = setting(
        5, "promp: steps of Adam on the trajectories of a meta-batch", minimum=1, maximum=1_000
    )
    ratio_clip: float = setting(
        0.3, "promp: how far from 1 a ratio of probabilities counts", above=0, maximum=1
    )
    kl_weight: float = setting(
        5e-4, "promp: weight of the KL of policies before inner steps, or its first value", minimum=0
    )
    kl_target: float = setting(
        0.0, "promp: that KL, to which its weight adapts; 0 for a weight that stays", minimum=0
    )


@dataclass(frozen=True)
class SampledSettings(Settings):
    """The same, and whether a meta-gradient sees that who acts decides on what inner steps descend."""

    sampling_term: float = setting(
        0.0,
        "weight of how likely the trajectories of inner steps are, in the meta-gradient of control; 1: exact",
        minimum=0,
    )


def sampled(net: Net, h: SampledSettings) -> Net:
    """Return the network whose inner steps leave to the sampling term, where it is on, what is its own.

    Ratios differentiate, beside the step, how likely its trajectories are: that would count twice.
    """
    if not optim.is_on(h.sampling_term):
        return net
    return net._replace(objective=net.objective._replace(loss=log_likelihood))


def with_sampling(loss: Tensor, net: Net, task: Task, h: Any, adapted: Callable[[int], Tree]) -> Tensor:
    """Add the sampling term to a query's loss, where it is on.

    Args:
        adapted: how many inner steps -> the layers after them.
    """
    if not optim.is_on(h.sampling_term):
        return loss
    after = cast(Moves, task.query.y)
    for step, batch in enumerate(inner.batches(task.support, h.inner_steps)):
        outputs, _ = nets.apply(net, adapted(step), batch.x)
        loss = loss + h.sampling_term * sampling(outputs, batch.y, after)
    return loss


def outer(h: Settings) -> Optimizer:
    """Build the outer optimiser that the settings name."""
    return SEARCHES[h.outer_optimizer](h) if h.outer_optimizer in SEARCHES else optim.descend(h)


def problem(h: Any, kind: str) -> str | None:
    """Say why settings cannot be for this kind of data, or return None."""
    name, weight = getattr(h, "outer_optimizer", None), getattr(h, "sampling_term", 0.0)
    if name in SEARCHES and kind != "control":
        return (
            f"outer_optimizer={name!r}: looks at trajectories again, and {kind} has none; take adam or sgd, "
            "or data of control"
        )
    if weight and kind != "control":
        return f"sampling_term={weight}: is of trajectories, and {kind} has none; leave it out"
    if weight and name in SEARCHES:
        return f"sampling_term={weight}: outer_optimizer={name!r} knows no such term; take adam or sgd"
    return None


def conjugate_gradients(product: Callable[[Tree], Tree], b: Tree, iterations: int = ITERATIONS) -> Tree:
    """Solve A x = b by so many steps from 0, for a positive definite A that is known by its products."""
    x = trees.map(torch.zeros_like, b)
    r = p = b
    rr = trees.dot(r, r)
    for _ in range(iterations):
        if not rr > 0:
            break
        ap = product(p)
        length = rr / trees.dot(p, ap)
        x = trees.map(lambda x, p, length=length: x + length * p, x, p)
        r = trees.map(lambda r, ap, length=length: r - length * ap, r, ap)
        rr, before = trees.dot(r, r), rr
        p = trees.map(lambda r, p, share=rr / before: r + share * p, r, p)
    return x


def trpo(h: Settings) -> Optimizer:
    """Go as far along the natural gradient as KL allows (Schulman et al. 2015, appendix C)."""

    def search(batch: Collected, state: Tree, meta: Tree, progress: float) -> tuple[Tree, Tree, Logs]:
        g = batch.gradient(meta, math.inf, None)

        def damped(v: Tree) -> Tree:
            return trees.map(lambda fv, v: fv + DAMPING * v, batch.fisher(meta, v), v)

        d = conjugate_gradients(damped, g)
        # sqrt(2 delta / d^T F d): the quadratic model of KL is delta there
        length = (2 * h.max_kl / trees.dot(d, damped(d))).sqrt()
        first, _ = batch.judged(meta)
        for tries in range(TRIES):
            share = length * SHORTENED**tries
            moved = trees.map(lambda w, d, share=share: w - share * d, meta, d)
            loss, kl = batch.judged(moved)
            if loss < first and kl <= h.max_kl:
                return moved, state, _logs(g, kl, 0.0)
        return meta, state, _logs(g, torch.zeros_like(first), 1.0)

    return optim.still()._replace(search=search)


def _logs(gradient: Tree, kl: Tensor, failed: float) -> Logs:
    return {"grad/norm": trees.norm(gradient), "kl": kl, "line_search_failed": torch.tensor(failed)}


def promp(h: Settings) -> Optimizer:
    """Descend limited ratios, and how far policies move before they adapt (Rothfuss et al. 2019, eq. 13)."""
    adam, factor = optim.adam(), optim.schedule(h)

    def init(meta: Tree) -> Tree:
        weight = torch.tensor(h.kl_weight, dtype=torch.float64, device=trees.leaves(meta)[0].device)
        return {"adam": adam.init(meta), "kl_weight": weight}

    def search(batch: Collected, state: Tree, meta: Tree, progress: float) -> tuple[Tree, Tree, Logs]:
        moments, weight, lr = state["adam"], state["kl_weight"], h.outer_lr * factor(progress)
        norm = None
        for _ in range(h.epochs):
            g = batch.gradient(meta, h.ratio_clip, weight)
            norm = trees.norm(g) if norm is None else norm
            direction, moments = adam.direction(optim.clip(g, h.outer_clip), moments)
            meta = trees.map(lambda w, d: w - lr * d, meta, direction)
        kl = batch.inner_kl(meta)
        logs = {"lr/outer": torch.as_tensor(lr), "grad/norm": norm, "kl/inner": kl, "kl/weight": weight}
        return meta, {"adam": moments, "kl_weight": adapted(weight, kl, h.kl_target)}, logs

    return Optimizer(init, optim.still().update, search)


def adapted(weight: Tensor, kl: Tensor, target: float) -> Tensor:
    """Double a weight where policies have moved too far apart, and halve it where they hardly have."""
    if not target:
        return weight
    return weight * (2.0 if kl > APART * target else 0.5 if kl < target / APART else 1.0)


SEARCHES: dict[str, Callable[[Any], Optimizer]] = {"promp": promp, "trpo": trpo}
