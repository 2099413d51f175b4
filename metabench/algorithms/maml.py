"""MAML and its nearest relatives: an initialisation from which a few gradient steps learn a task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Generator, Tensor

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _policy_search as policies
from metabench.core import HEAD, Algorithm, Aux, Labelled, Net, Support, Task, Tree, trees


@dataclass(frozen=True)
class Settings(policies.SampledSettings, inner.Settings):
    """The inner and the outer loop's settings."""


@dataclass(frozen=True)
class OrderedSettings(policies.SampledSettings, inner.OrderedSettings):
    """The same, and whether the meta-gradient sees through the inner loop."""


def init(net: Net, h: inner.Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": net.init(generator)}, {}


def descend(
    net: Net, theta: Tree, support: Labelled, h: inner.Settings, steps: int, derivative: str, part: str
) -> Tree:
    fast, slow = inner.partition(net, theta, h.adapt_norm, part)
    loss, constants, seen = partial(inner.support_loss, net), slow, None
    if part == "head":
        loss = partial(head_loss, net)
    for batch in inner.batches(support, steps):
        if part == "head" and batch is not seen:
            # The body stands still, so one pass through it serves every step on the same examples.
            constants, seen = {"features": net.embed(theta, batch.x)[0]}, batch
        direction, _ = inner.gradient(loss, fast, constants, batch, derivative, h.inner_clip, h.recompute)
        # sec. 2.2: theta' = theta - alpha * grad L_S(theta)
        fast = trees.map(lambda w, g: w - h.inner_lr * g, fast, direction)
    return {**slow, **fast}


def head_loss(net: Net, params: Tree, support: Labelled) -> tuple[Tensor, Tree]:
    return net.objective.loss(nets.outputs(net, params[HEAD], params["features"]), support.y), {}


def task_loss(
    net: Net,
    meta: Tree,
    buffers: Tree,
    task: Task,
    h: Any,
    progress: float,
    derivative: str | None = None,
    part: str = "all",
) -> tuple[Tensor, Aux]:
    def adapted(steps: int) -> Tree:
        acts = policies.sampled(net, h)
        return descend(acts, meta["theta"], task.support, h, steps, derivative or h.derivative, part)

    # eq. 1: the meta-objective is L_Q(theta')
    learner = inner.adapted(net, adapted(h.inner_steps), task.support)
    loss, aux = inner.judge(net, inner.predict(net, learner, task.query.x), task.query.y, buffers)
    return policies.with_sampling(loss, net, task, h, adapted), aux


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Any, part: str = "all") -> Tree:
    phi = descend(net, meta["theta"], support, h, inner.steps_at_evaluation(h), "first", part)
    return inner.adapted(net, phi, support)


MAML = Algorithm(
    hparams=Settings,
    init=init,
    task_loss=partial(task_loss, derivative="second"),
    adapt=adapt,
    predict=inner.predict,
    optimizer=policies.outer,
    reference="Finn, Abbeel and Levine 2017, arXiv 1703.03400, algorithm 2. The mean over tasks and examples "
    "replaces the sums; norm layers are not adapted unless adapt_norm asks for it. In control, "
    "sampling_term adds the term of E-MAML (Stadie et al. 2018, arXiv 1803.01118).",
    kinds=("classification", "regression", "control"),
    inner_steps=inner.INNER_STEPS,
    has_recompute=True,
    head="linear",
)


def check_anil(h: inner.OrderedSettings) -> list[str]:
    return ["adapt_norm=true: has no effect where only the head moves; leave it out"] if h.adapt_norm else []


ALGORITHMS = {
    "maml": MAML,
    "fomaml": MAML._replace(
        task_loss=partial(task_loss, derivative="first"),
        has_recompute=False,
        also_called=("First-order MAML",),
        reference="Finn, Abbeel and Levine 2017, arXiv 1703.03400, section 5.2: the inner gradient "
        "is a constant. Otherwise as MAML.",
    ),
    "anil": MAML._replace(
        hparams=OrderedSettings,
        task_loss=partial(task_loss, part="head"),
        adapt=partial(adapt, part="head"),
        check=check_anil,
        is_of_features=True,
        reference="Raghu et al. 2020, arXiv 1909.09157, section 4: the inner loop moves the head alone. "
        "Support and query pass through the body apart, as the batch norm mode says, and not together.",
    ),
    "boil": MAML._replace(
        hparams=OrderedSettings,
        task_loss=partial(task_loss, part="body"),
        adapt=partial(adapt, part="body"),
        reference="Oh et al. 2021, arXiv 2008.08882, section 3: the inner loop moves all but the head. "
        "Norm layers are not adapted unless adapt_norm asks for it.",
    ),
}
