"""What gradient-based learners share inside one task: the loss, one inner step, the query's logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.func import grad, vmap
from torch.profiler import record_function

from metabench import nets
from metabench.algorithms import _checkpoint as recompute
from metabench.algorithms import _outer_loop as optim
from metabench.core import HEAD, Aux, Labelled, Net, Tree, setting, trees
from metabench.core.control import Moves


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The inner loop's settings beside the outer loop's."""

    inner_lr: float = setting(0.1, "inner learning rate alpha", minimum=0)
    inner_steps: int = setting(5, "inner steps K in meta-training", minimum=0)
    eval_steps: int = setting(-1, "inner steps at evaluation; -1 for as many as in meta-training", minimum=-1)
    inner_clip: float = setting(
        0.0, "largest absolute element of an inner gradient; 0 for no limit", minimum=0
    )
    adapt_norm: bool = setting(False, "adapt the scale and shift of norm layers in the inner loop")
    recompute: bool = setting(
        False,
        "compute second-order inner steps again in the backward pass: less memory, more time",
    )


INNER_STEPS = ("eval_steps", "inner_steps")
"""The settings that count inner steps, as `Algorithm.inner_steps` wants them."""

PARTS: Mapping[str, Callable[[str], bool]] = {
    "all": lambda layer: True,
    "head": lambda layer: layer == HEAD,
    "body": lambda layer: layer != HEAD,
}
"""The layers that an inner loop may adapt."""


def partition(net: Net, theta: Tree, adapt_norm: bool, part: str = "all") -> tuple[Tree, Tree]:
    """Split layers into those the inner loop adapts and those it leaves alone (norm layers, by default)."""
    moves = {name: PARTS[part](name) and (adapt_norm or name not in net.norms) for name in theta}
    fast = {name: theta[name] for name in theta if moves[name]}
    slow = {name: theta[name] for name in theta if not moves[name]}
    return fast, slow


def support_loss(net: Net, params: Tree, support: Labelled, moments: Tree = None) -> tuple[Tensor, Tree]:
    """Return the mean loss on the support set and the batch norm moments that were used."""
    predicted, moments = nets.apply(net, params, support.x, moments)
    return net.objective.loss(predicted, support.y), moments


def batches(support: Labelled, steps: int) -> list[Any]:
    """Return what each inner step descends: the support set, or, of control, trajectories of its own."""
    y: Any = support.y
    if not isinstance(y, Moves):
        return [support] * steps
    leaves, form = trees.flatten(support)
    return [trees.unflatten([leaf[step] for leaf in leaves], form) for step in range(steps)]


@dataclass(frozen=True)
class OrderedSettings(Settings):
    """The inner loop's settings, and whether the meta-gradient sees through it."""

    derivative: str = setting(
        "second",
        "differentiate through inner gradients, or take them as constants",
        choices=("second", "first"),
    )


def gradient(
    loss: Callable[[Tree, Any], tuple[Tensor, Tree]],
    fast: Tree,
    slow: Tree,
    support: Labelled,
    derivative: str,
    clip: Any = 0,
    checkpoint: bool = False,
) -> tuple[Tree, Tree]:
    """Differentiate an inner loss of all layers, `-> (loss, moments)`, with respect to the fast ones.

    Args:
        derivative: "second" differentiates through the gradient; "first" treats it as a constant.
        clip: largest absolute element; 0 for no limit.
        checkpoint: compute it again where it is differentiated, and keep nothing for that.
    """

    def of(fast: Tree, slow: Tree, support: Labelled) -> tuple[Tree, Tree]:
        return grad(lambda layers: loss({**slow, **layers}, support), has_aux=True)(fast)

    if derivative == "first":
        fast, slow = (trees.map(torch.Tensor.detach, layers) for layers in (fast, slow))
    elif checkpoint:
        of = recompute.checkpoint(of)
    # Of use to a profile alone: without one, it would be two operations more in every inner step.
    with record_function("inner gradient") if torch._C._autograd._profiler_enabled() else nullcontext():
        direction, moments = of(fast, slow, support)
        return optim.clip(direction, clip), moments


def steps_at_evaluation(h: Any) -> int:
    """Return how many inner steps evaluation takes."""
    return h.inner_steps if h.eval_steps < 0 else h.eval_steps


def init_body(net: Net, generator: Generator) -> Tree:
    """Draw all layers but the head."""
    return {name: layer for name, layer in net.init(generator).items() if name != HEAD}


def adapted(net: Net, params: Tree, support: Labelled, moments: Tree = None) -> Tree:
    """Return a learner: parameters, and what queries are normalised with beside or instead of each other.

    Args:
        moments: of the support set under these parameters, where they are known.
    """
    if net.batch_norm == "transductive" or not net.norm_channels:
        return {"params": params}
    if net.batch_norm == "support_stats":
        return {"params": params, "moments": moments or net.embed(params, support.x)[1]}
    return {"params": params, "support": support.x}


def embed(net: Net, learner: Tree, x: Tensor) -> tuple[Tensor, Tree]:
    """Embed queries [n, ...] as a learner of `adapted` normalises them: [n, F], and what moments."""
    params = learner["params"]
    if "support" not in learner:
        return net.embed(params, x, learner.get("moments"))

    def beside_support(one: Tensor) -> Tensor:
        return net.embed(params, torch.cat([learner["support"], one]))[0][-1:]

    # For one query without vmap, which an exported graph could not pass with a support set of any size.
    return (beside_support(x) if x.shape[0] == 1 else vmap(beside_support)(x[:, None])[:, 0]), {}


def predict(net: Net, learner: Tree, x: Tensor) -> Tensor:
    """Return the outputs of a learner of `adapted` for queries: [n, O]."""
    return nets.outputs(net, learner["params"][HEAD], embed(net, learner, x)[0])


def judge(net: Net, outputs: Tensor, y: Tensor, buffers: Tree) -> tuple[Tensor, Aux]:
    """Return the loss of a query's outputs, and what is logged with it."""
    logs = {net.objective.metric.name: net.objective.score(outputs, y)}
    return net.objective.loss(outputs, y), Aux(logs, buffers)


def nearest_prototype(means: Tensor) -> Tree:
    """Return the head whose outputs rank classes as -|f - p|^2 does, for prototypes [N, F]."""
    # -|f - p|^2 = 2 p.f - |p|^2 - |f|^2, and |f|^2 is the same for every class
    return {"weight": 2 * means, "bias": -means.square().sum(-1)}


def class_means(x: Tensor, y: Tensor, way: int) -> Tensor:
    """Average rows [n, F] by their labels: [N, F]; every class must have a row."""
    belongs = (y == torch.arange(way, device=y.device)[:, None]).to(x.dtype)  # [N, n]
    return belongs @ x / belongs.sum(1, keepdim=True)
