"""What gradient-based learners share inside one task: the loss, one inner step, the query's logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from metabench import optim, trees
from metabench.core import Net, Support, Tree, setting


@dataclass(frozen=True)
class Settings(optim.Settings):
    """The inner loop's settings beside the outer loop's."""

    inner_lr: float = setting(0.1, "inner learning rate alpha", minimum=0)
    inner_steps: int = setting(5, "inner steps K in meta-training", minimum=0)
    eval_steps: int = setting(0, "inner steps at evaluation; 0 for as many as in meta-training", minimum=0)
    inner_clip: float = setting(
        0.0, "largest absolute element of an inner gradient; 0 for no limit", minimum=0
    )
    adapt_norm: bool = setting(False, "adapt the scale and shift of norm layers in the inner loop")


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the share of rows whose largest logit is the label's."""
    return (logits.argmax(-1) == y).to(logits.dtype).mean()


def partition(net: Net, theta: Tree, adapt_norm: bool) -> tuple[Tree, Tree]:
    """Split layers into those the inner loop adapts and those it leaves alone (norm layers, by default)."""
    slow = {} if adapt_norm else {name: theta[name] for name in theta if name in net.norm_channels}
    fast = {name: theta[name] for name in theta if name not in slow}
    return fast, slow


def support_loss(net: Net, params: Tree, support: Support, moments: Tree = None) -> tuple[Tensor, Tree]:
    """Return the mean cross-entropy on the support set and the batch norm moments that were used."""
    logits, moments = net.apply(params, support.x, moments)
    return F.cross_entropy(logits, support.y), moments


def gradient(
    loss: Callable[[Tree], tuple[Tensor, Tree]], fast: Tree, slow: Tree, derivative: str, clip: Any
) -> tuple[Tree, Tree]:
    """Differentiate an inner loss of all layers, `params -> (loss, moments)`, with respect to the fast ones.

    Args:
        derivative: "second" differentiates through the gradient; "first" treats it as a constant.
        clip: largest absolute element; 0 for no limit.
    """
    if derivative == "first":
        fast, slow = (trees.map(torch.Tensor.detach, layers) for layers in (fast, slow))
    direction, moments = grad(lambda layers: loss({**slow, **layers}), has_aux=True)(fast)
    if clip:
        direction = trees.map(lambda g: g.clamp(-clip, clip), direction)
    return direction, moments


def query_moments(net: Net, params: Tree, support: Support) -> Tree:
    """Return the moments a query is normalised with: its own (None) or the support's under these params."""
    if net.batch_norm == "transductive" or not net.norm_channels:
        return None
    return net.apply(params, support.x)[1]
