"""Outer optimisers as pairs of pure functions; their settings may be tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabench.core import Logs, Optimizer, Tree, setting, trees


@dataclass(frozen=True)
class Settings:
    """The outer loop's settings, shared by all algorithms."""

    outer_lr: float = setting(1e-3, "outer learning rate beta", above=0)
    outer_optimizer: str = setting("adam", "outer optimiser", choices=("adam", "sgd"))
    outer_clip: float = setting(0.0, "largest absolute element of a meta-gradient; 0 for no limit", minimum=0)
    task_batch_size: int = setting(10, "meta-train tasks in one meta-update", minimum=1)
    cosine: bool = setting(False, "let the outer learning rate fall as half a cosine over the full budget")
    final_lr_fraction: float = setting(
        0.01, "outer learning rate at the end as a share of the first, where it falls", minimum=0, maximum=1
    )
    augment: str = setting(
        "none",
        "the half of a meta-train task whose images are distorted, each on its own",
        choices=("none", "support", "query", "both"),
    )
    turn_classes: bool = setting(
        False,
        "turn each class of a meta-train task by 0, 90, 180 or 270 degrees, support and query alike",
    )


ListOperation = Callable[..., list[Tensor]]
"""(list, lists or numbers) -> list: one kernel for many where torch has it, one for each under torch.func."""


# Where a release of torch has moved this, one tensor after another is right everywhere.
_level: Any = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", lambda: 1)


def _over_lists(name: str) -> ListOperation:
    one, many = getattr(torch, name), getattr(torch, f"_foreach_{name}")

    def apply(first: list[Tensor], *others: Any) -> list[Tensor]:
        if _level() is None:
            return list(many(first, *others))
        columns = [other if isinstance(other, list) else [other] * len(first) for other in others]
        return [one(*each) for each in zip(first, *columns, strict=True)]

    return apply


add, div, mul, sqrt, sub = map(_over_lists, ("add", "div", "mul", "sqrt", "sub"))


Schedule = Callable[[float], Any]
"""Progress in [0, 1] to a factor of the outer learning rate."""


class Rule(NamedTuple):
    """A descent direction: theta <- theta - lr * direction."""

    init: Callable[[Tree], Tree]  # meta -> state
    direction: Callable[[Tree, Tree], tuple[Tree, Tree]]  # (gradient, state) -> (direction, state)


def sgd() -> Rule:
    """Follow the gradient itself."""
    return Rule(lambda meta: {}, lambda gradient, state: (gradient, state))


def adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Rule:
    """Follow Adam's direction (Kingma and Ba 2015, algorithm 1)."""

    def init(meta: Tree) -> Tree:
        first = next(iter(trees.leaves(meta)))
        zeros = trees.map(torch.zeros_like, meta)
        step = torch.zeros((), dtype=torch.float64, device=first.device)
        return {"step": step, "m": zeros, "v": trees.map(torch.zeros_like, meta)}

    def direction(gradient: Tree, state: Tree) -> tuple[Tree, Tree]:
        step = state["step"] + 1

        def moved(m: list[Tensor], g: list[Tensor]) -> Any:
            # m = beta1 * m + (1 - beta1) * g
            return add(mul(m, beta1), mul(g, 1 - beta1))

        def squared(v: list[Tensor], g: list[Tensor]) -> Any:
            # v = beta2 * v + (1 - beta2) * g^2
            return add(mul(v, beta2), mul(mul(g, 1 - beta2), g))

        m = trees.together(moved, state["m"], gradient)
        v = trees.together(squared, state["v"], gradient)
        m_scale = 1 / (1 - beta1**step)
        v_scale = 1 / (1 - beta2**step)

        def corrected(m: list[Tensor], v: list[Tensor]) -> Any:
            # A float64 scalar would turn a parameter without dimensions, such as a learned rate, into one.
            m_hat, v_hat = (mul(x, scale.to(x[0].dtype)) for x, scale in ((m, m_scale), (v, v_scale)))
            return div(m_hat, add(sqrt(v_hat), epsilon))

        return trees.together(corrected, m, v), {"step": step, "m": m, "v": v}

    return Rule(init, direction)


RULES: dict[str, Callable[[], Rule]] = {"adam": adam, "sgd": sgd}


def clip(gradient: Tree, limit: Any) -> Tree:
    """Limit every element to [-limit, limit]; 0 means no limit."""
    return trees.map(lambda g: g.clamp(-limit, limit), gradient) if is_on(limit) else gradient


def is_on(value: Any) -> bool:
    """Tell whether a setting that is off at 0 is on: a tensor is, as nobody may ask what is in it."""
    return isinstance(value, Tensor) or bool(value)


def constant(progress: float) -> float:
    """Keep the rate as it is."""
    return 1.0


def cosine(final: Any) -> Schedule:
    """Return a factor that falls from 1 to `final` as half a cosine (Loshchilov and Hutter 2017, eq. 5)."""
    return lambda progress: final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def linear(final: Any) -> Schedule:
    """Return a factor that falls from 1 to `final` along a line."""
    return lambda progress: 1 + (final - 1) * progress


def still() -> Optimizer:
    """Build the optimiser of what is not learnt."""
    return Optimizer(lambda meta: {}, lambda gradient, state, meta, progress: (meta, state, {}))


def schedule(h: Settings, otherwise: Schedule = constant) -> Schedule:
    """Return the cosine where the settings ask for it, else another schedule."""
    return cosine(h.final_lr_fraction) if h.cosine else otherwise


def descend(h: Settings, otherwise: Schedule = constant) -> Optimizer:
    """Build the outer optimiser that the settings name.

    Args:
        otherwise: schedule of the outer rate where it is no cosine.
    """
    rule, factor = RULES[h.outer_optimizer](), schedule(h, otherwise)

    def update(gradient: Tree, state: Tree, meta: Tree, progress: float) -> tuple[Tree, Tree, Logs]:
        lr = h.outer_lr * factor(progress)
        direction, state = rule.direction(clip(gradient, h.outer_clip), state)
        meta = trees.together(lambda w, d: sub(w, mul(d, lr)), meta, direction)
        return meta, state, {"lr/outer": torch.as_tensor(lr)}

    return Optimizer(rule.init, update)
