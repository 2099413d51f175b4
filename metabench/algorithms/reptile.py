"""Reptile: move the initialisation towards where a task's own training ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Optimizer, Query, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings(inner.Settings):
    """Defaults are the authors' for transductive Omniglot, 5-way 1-shot."""

    outer_lr: float = setting(1.0, "first outer step size epsilon", above=0)
    outer_optimizer: str = setting("sgd", "outer optimiser", choices=("adam", "sgd"))
    task_batch_size: int = setting(5, "meta-train tasks in one meta-update", minimum=1)
    final_lr_fraction: float = setting(
        0.0, "outer step size at the end as a share of the first", minimum=0, maximum=1
    )
    inner_optimizer: str = setting(
        "adam", "inner optimiser; adam is without momentum (beta1 = 0)", choices=("adam", "sgd")
    )
    inner_lr: float = setting(1e-3, "inner learning rate alpha", minimum=0)
    inner_batch: int = setting(10, "examples in an inner step; 0 for all of them", minimum=0)
    eval_steps: int = setting(50, "inner steps at evaluation; -1 for as many as in meta-training", minimum=-1)
    adapt_norm: bool = setting(True, "adapt the scale and shift of norm layers in the inner loop")


RULES: Mapping[str, Callable[[], optim.Rule]] = {"adam": partial(optim.adam, beta1=0.0), "sgd": optim.sgd}


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    theta = net.init(generator)
    fast, _ = inner.partition(net, theta, h.adapt_norm)
    return {"theta": theta}, RULES[h.inner_optimizer]().init(fast)


def in_turn(net: Net, part: Support | Query) -> Support:
    """Order examples that are sorted by class so that classes alternate; points keep their order."""
    if part.y.is_floating_point():
        return Support(part.x, part.y)
    is_same = part.y[:, None] == part.y
    earlier = is_same.tril(-1).sum(1)  # of the same class: a class's first examples come first
    order = (earlier * net.way + part.y).argsort()
    return Support(part.x[order], part.y[order])


def batch(examples: Support, step: int, size: int) -> Support:
    """Cut the mini-batch of an inner step, starting over where the examples end."""
    n = len(examples.y)
    if not 0 < size < n:
        return examples
    index = torch.arange(step * size, (step + 1) * size, device=examples.y.device) % n
    return Support(examples.x[index], examples.y[index])


def descend(
    net: Net, theta: Tree, state: Tree, examples: Support, h: Settings, steps: int
) -> tuple[Tree, Tree]:
    """Return the adapted layers, as constants, and the inner optimiser's state after them."""
    fast, slow = inner.partition(net, trees.map(torch.Tensor.detach, theta), h.adapt_norm)
    rule, loss = RULES[h.inner_optimizer](), partial(inner.support_loss, net)
    for step in range(steps):
        chosen = batch(examples, step, h.inner_batch)
        gradient, _ = inner.gradient(loss, fast, slow, chosen, "first", h.inner_clip)
        direction, state = rule.direction(gradient, state)
        fast = trees.map(lambda w, d: w - h.inner_lr * d, fast, direction)
    return {**slow, **fast}, state


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    both = zip(in_turn(net, task.support), in_turn(net, task.query), strict=True)
    examples = Support(*(torch.cat(halves) for halves in both))
    # alg. 2: phi = U^K(theta), K inner steps
    phi, state = descend(net, meta["theta"], buffers, examples, h, h.inner_steps)
    # alg. 2: theta <- theta + epsilon * (phi - theta), which descends 1/2 |theta - phi|^2
    apart = trees.map(torch.sub, meta["theta"], phi)
    outputs, _ = nets.apply(net, phi, task.query.x)
    score = net.objective.score(outputs, task.query.y)
    return 0.5 * trees.dot(apart, apart), Aux({net.objective.metric.name: score}, state)


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    examples, steps = in_turn(net, support), inner.steps_at_evaluation(h)
    phi, _ = descend(net, meta["theta"], buffers, examples, h, steps)
    return inner.adapted(net, phi, support)


def optimizer(h: Settings) -> Optimizer:
    return optim.descend(h, optim.linear(h.final_lr_fraction))


ALGORITHMS = {
    "reptile": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optimizer,
        reference="Nichol, Achiam and Schulman 2018, arXiv 1803.02999, algorithm 2. The loss is the "
        "surrogate 1/2 |theta - phi|^2 with phi constant: its gradient is theta - phi. Support and query "
        "examples of a meta-train task are learnt together (the authors' train shots), so the accuracy "
        "logged there is a training accuracy: phi has seen these queries; one forward pass normalises them "
        "together. A task's examples are drawn at random, so taking mini-batches of them in turn is sampling "
        "without replacement; classes alternate, a second pass keeps the order where the authors shuffle "
        "again, and a batch is never larger than what there is. One batch size serves training and "
        "evaluation, where the authors have two. As in the authors' code, Adam's second moments are never "
        "reset, and evaluation starts from them; tasks of a meta-batch run side by side here, so each starts "
        "from the same moments, which are then averaged. Evaluation with batch_norm=transductive and "
        "with_support are the authors' two.",
        kinds=("classification", "regression"),
        inner_steps=inner.INNER_STEPS,
        head="linear",
    )
}
