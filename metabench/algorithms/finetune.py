"""Transfer learning: classify all meta-train classes, then put a new classifier on the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.func import grad

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import (
    HEAD,
    Algorithm,
    Aux,
    MetabenchError,
    Net,
    Support,
    Task,
    Tree,
    seeds,
    setting,
    trees,
)

MOMENTUM, DAMPENING, WEIGHT_DECAY = 0.9, 0.9, 1e-3
"""Of the descent on a support set, as published."""

Logits = Callable[[Tree, Tensor, Any], Tensor]
"""A classifier: (its parameters, features [n, F], settings) -> [n, O]."""


@dataclass(frozen=True)
class Settings(optim.Settings):
    """How a new task is learnt; the outer loop's settings are those of the pre-training."""

    inner_lr: float = setting(0.01, "learning rate on a support set", minimum=0)
    inner_steps: int = setting(100, "steps on a whole support set", minimum=0)
    adapt_body: bool = setting(False, "fine-tune all layers and not the new classifier alone")
    adapt_block: bool = setting(False, "fine-tune the last block with the new classifier")
    support_copies: int = setting(
        0, "mirrored and shifted copies of each support image, beside it", minimum=0, maximum=64
    )


@dataclass(frozen=True)
class LinearSettings(Settings):
    """What is put on the features."""

    classifier: str = setting(
        "linear",
        "descend a linear layer, or take the nearest class mean of the features as they are",
        choices=("linear", "prototype"),
    )


@dataclass(frozen=True)
class CosineSettings(Settings):
    """How far apart cosines are."""

    scale: float = setting(
        0.0, "factor of the cosines; 0 for the authors': 2 up to 200 classes, 10 beyond", minimum=0
    )


def init(net: Net, h: Settings, generator: Generator, has_bias: bool) -> tuple[Tree, Tree]:
    params = net.init(generator)
    theta = {name: layer for name, layer in params.items() if name != HEAD}
    base = nets.init_head(net.n_classes, net.features, generator)
    return {"theta": theta, "base": base if has_bias else {"weight": base["weight"]}}, {}


def linear(params: Tree, features: Tensor, h: Settings) -> Tensor:
    return nets.head(params, features)


def cosines(params: Tree, features: Tensor) -> Tensor:
    return F.linear(F.normalize(features, dim=-1), F.normalize(params["weight"], dim=-1))


def scale(h: CosineSettings, outputs: int) -> float:
    return h.scale if optim.is_on(h.scale) else 2.0 if outputs <= 200 else 10.0


def cosine(params: Tree, features: Tensor, h: CosineSettings) -> Tensor:
    # sec. 3.2: s_ij = f(x_i)^T w_j / (|f(x_i)| |w_j|), times a factor
    return scale(h, len(params["weight"])) * cosines(params, features)


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float, logits: Logits
) -> tuple[Tensor, Aux]:
    x = torch.cat([task.support.x, task.query.x])
    y = task.classes[torch.cat([task.support.y, task.query.y])]  # each image's class among all of them
    features, _ = net.embed(meta["theta"], x)
    # sec. 3.2: cross-entropy of the base classes
    return inner.judge(net, logits(meta["base"], features, h), y, buffers)


def fit(
    net: Net, theta: Tree, head: Tree, features: Tensor, support: Support, h: Settings, logits: Logits
) -> Tree:
    """Descend the support loss from a new head, and from what of the body may move; return all layers."""
    moves = [*theta] if h.adapt_body else [name for name in net.last_block if name in theta and h.adapt_block]
    fast = {**{name: theta[name] for name in moves}, HEAD: head}

    def loss(fast: Tree) -> Tensor:
        seen = net.embed({**theta, **fast}, support.x)[0] if moves else features
        return net.objective.loss(logits(fast[HEAD], seen, h), support.y)

    velocity = None
    for _ in range(h.inner_steps):
        slope = trees.map(lambda g, w: g + WEIGHT_DECAY * w, grad(loss)(fast), fast)
        # As in torch, dampening spares the first step.
        velocity = (
            slope
            if velocity is None
            else trees.map(lambda v, g: MOMENTUM * v + (1 - DAMPENING) * g, velocity, slope)
        )
        fast = trees.map(lambda w, v: w - h.inner_lr * v, fast, velocity)
    return {**theta, **fast}


def with_copies(support: Support, h: Settings) -> Support:
    """Return a support set with copies of its images: each other mirrored, each shifted up to an eighth."""
    x, y = support[:2]
    if not h.support_copies:
        return support
    if x.ndim != 4:
        raise MetabenchError("support_copies: inputs are no images, which could be mirrored; set it to 0")
    height, width = x.shape[-2:]
    margin = max(1, max(height, width) // 8)
    padded, images = F.pad(x, [margin] * 4, "replicate"), [x]
    for number in range(h.support_copies):
        # By name, the same for every task: predictions repeat.
        top, left = (seeds.seed("support copies", number, axis) % (2 * margin + 1) for axis in "yx")
        moved = padded[..., top : top + height, left : left + width]
        images.append(moved if number % 2 else moved.flip(-1))
    return Support(torch.cat(images), y.repeat(len(images)))


def adapt_linear(net: Net, meta: Tree, buffers: Tree, support: Support, h: LinearSettings) -> Tree:
    theta, seen = meta["theta"], with_copies(support, h)
    features, _ = net.embed(theta, seen.x)
    if h.classifier == "prototype":
        params = {**theta, HEAD: inner.nearest_prototype(inner.class_means(features, seen.y, net.way))}
    else:
        zeros = {
            "weight": features.new_zeros(net.way, net.features),
            "bias": features.new_zeros(net.way),
        }
        params = fit(net, theta, zeros, features, seen, h, linear)
    return inner.adapted(net, params, seen)


def adapt_cosine(net: Net, meta: Tree, buffers: Tree, support: Support, h: CosineSettings) -> Tree:
    seen = with_copies(support, h)
    features, _ = net.embed(meta["theta"], seen.x)
    means = inner.class_means(F.normalize(features, dim=-1), seen.y, net.way)
    start = {"weight": F.normalize(means, dim=-1)}
    params = fit(net, meta["theta"], start, features, seen, h, cosine)
    factor = torch.as_tensor(scale(h, net.way), dtype=features.dtype, device=features.device)
    return {**inner.adapted(net, params, seen), "scale": factor}


def predict_cosine(net: Net, learner: Tree, x: Tensor) -> Tensor:
    features, _ = inner.embed(net, learner, x)
    return learner["scale"] * cosines(learner["params"][HEAD], features)


DEVIATIONS = (
    "Meta-training batches are the images of one task each, support and query, labelled by their classes "
    "among all of meta-train, so that tasks seen cost and mean the same for every algorithm; a batch norm "
    "batch is thus one task's images. The accuracy logged there is over all those classes. There are no "
    "running moments: a task's images are normalised as the batch norm mode says. A support set is descended "
    "as a whole and not in batches of four; "
)

COPIES = (
    "Where a support set says what queries are normalised by, its copies count, as they do in the descent."
)

ALGORITHMS = {
    "finetune": Algorithm(
        hparams=LinearSettings,
        init=partial(init, has_bias=True),
        task_loss=partial(task_loss, logits=linear),
        adapt=adapt_linear,
        predict=inner.predict,
        optimizer=optim.descend,
        reference="Chen et al. 2019, arXiv 1904.04232, section 3.2 (Baseline). " + DEVIATIONS + "the new "
        "classifier starts from zeros and not at random, so that predictions repeat. The nearest class mean "
        "of frozen features (squared Euclidean distance, no gradient steps), fine-tuning of layers and "
        "copies are additions. " + COPIES,
        inner_steps=("inner_steps",),
        compares=lambda h: h.classifier == "prototype",
        head="linear",
    ),
    "baseline_pp": Algorithm(
        hparams=CosineSettings,
        init=partial(init, has_bias=False),
        task_loss=partial(task_loss, logits=cosine),
        adapt=adapt_cosine,
        predict=predict_cosine,
        optimizer=optim.descend,
        reference="Chen et al. 2019, arXiv 1904.04232, section 3.2 (Baseline++). " + DEVIATIONS + "the new "
        "weight vectors start from the directions of the classes' mean unit features and not at random, so "
        "that predictions repeat. Logits are cosines times a factor, as in the paper; the authors' code also "
        "learns a length for each class. Fine-tuning of layers and copies are additions. " + COPIES,
        inner_steps=("inner_steps",),
        compares=lambda h: True,
    ),
}
