"""MAML whose inner loop learns from unlabelled images, too: by their pseudo-labels, or by their entropy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms import maml
from metabench.core import Algorithm, Aux, Net, SemiSupport, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings(inner.OrderedSettings):
    """How the inner loss counts unlabelled images; without any it is MAML's."""

    unlabelled_loss: str = setting(
        "pseudo",
        "of an unlabelled image: cross-entropy with the label that it is taken for, or the entropy",
        choices=("pseudo", "entropy"),
    )
    unlabelled_weight: float = setting(0.1, "weight w of the mean of that in the inner loss", minimum=0)
    threshold: float = setting(
        0.8, "probability above which an image has a pseudo-label; others count nothing", minimum=0, maximum=1
    )
    warm_up: int = setting(
        1, "inner steps by the support set alone, before the others", minimum=0, maximum=1_000
    )


def pseudo(logits: Tensor, threshold: Any) -> Tensor:
    """Return the cross-entropy with the likeliest class, of images that are surer of it than a threshold."""
    # The label is argmax, through which no gradient flows; nor does any through the comparison.
    return -logits.log_softmax(-1).amax(-1) * is_sure(logits, threshold)


def is_sure(logits: Tensor, threshold: Any) -> Tensor:
    """Return 1 for images whose likeliest class has a probability above a threshold, and 0 for others."""
    return (logits.softmax(-1).amax(-1) > threshold).to(logits.dtype)


def entropy(logits: Tensor, threshold: Any) -> Tensor:
    """Return the entropy of each image's probabilities."""
    return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)


LOSSES: Mapping[str, Callable[[Tensor, Any], Tensor]] = {"pseudo": pseudo, "entropy": entropy}
"""(logits [M, N], threshold) -> losses [M]."""


def semi_loss(net: Net, h: Settings, params: Tree, support: SemiSupport) -> tuple[Tensor, Tree]:
    """Return L_S + w * U, unlabelled images being normalised as queries are: by the support's moments."""
    loss, moments = inner.support_loss(net, params, support)
    logits, _ = nets.apply(net, params, support.unlabelled, moments)
    return loss + h.unlabelled_weight * LOSSES[h.unlabelled_loss](logits, h.threshold).mean(), moments


def descend(
    net: Net, theta: Tree, support: Support | SemiSupport, h: Settings, steps: int, derivative: str
) -> Tree:
    fast, slow = inner.partition(net, theta, h.adapt_norm)
    reads = isinstance(support, SemiSupport) and optim.is_on(h.unlabelled_weight)
    for step in range(steps):
        loss = partial(semi_loss, net, h) if reads and step >= h.warm_up else partial(inner.support_loss, net)
        direction, _ = inner.gradient(loss, fast, slow, support, derivative, h.inner_clip, h.recompute)
        fast = trees.map(lambda w, g: w - h.inner_lr * g, fast, direction)
    return {**slow, **fast}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    phi = descend(net, meta["theta"], task.support, h, h.inner_steps, h.derivative)
    outputs = inner.predict(net, inner.adapted(net, phi, task.support), task.query.x)
    return inner.judge(net, outputs, task.query.y, buffers)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support | SemiSupport, h: Settings) -> Tree:
    phi = descend(net, meta["theta"], support, h, inner.steps_at_evaluation(h), "first")
    learner = inner.adapted(net, phi, support)
    if not isinstance(support, SemiSupport):
        return learner
    return {**learner, "taken": is_sure(inner.predict(net, learner, support.unlabelled), h.threshold)}


ALGORITHMS = {
    "maml_semi": Algorithm(
        hparams=Settings,
        init=maml.init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optim.descend,
        taken=lambda learner: learner["taken"],
        reference="Finn, Abbeel and Levine 2017, arXiv 1703.03400, algorithm 2, with the inner loss of Lee "
        "2013 (pseudo-labels above a threshold) or of Grandvalet and Bengio 2005 (entropy) beside that of "
        "the support set. An addition of this project: Li et al. 2019, arXiv 1906.00562, choose "
        "pseudo-labels by a learnt network and train anew on them. The outer loss is MAML's.",
        inner_steps=inner.INNER_STEPS,
        head="linear",
        has_recompute=True,
    )
}
