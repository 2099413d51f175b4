"""Looking at trajectories again: what an outer optimiser asks of a meta-batch that was collected once.

Outputs of a policy after inner steps come from `task_loss`, which sees through them as its algorithm does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import grad, vjp

from metabench.core import Logs, Query, Task, Tree, trees
from metabench.core.control import Collected, Moves, clipped_ratio, divergence, likelihood_ratio
from metabench.training import rollouts, vectorise
from metabench.training.graphs.trace import TraceCache
from metabench.training.vectorise import Model


def collect(
    model: Model, groups: Sequence[Task], progress: float, traces: TraceCache | None = None
) -> tuple[Collected, Logs]:
    """Let a policy act in groups of tasks; return what may be asked of it, and what is logged.

    Args:
        traces: where the operations are recorded, to be replayed from then on.
    """
    adapts = dataclasses.replace(
        model.h, **{model.algorithm.inner_steps[0]: rollouts.training_steps(model.h)}
    )
    batches = [acted(model._replace(h=adapts), tasks, traces) for tasks in groups]

    def averaged(function: Any, meta: Tree, *shared: Any) -> Tree:
        return _over_groups(function, model._replace(meta=meta), batches, progress, shared, traces)

    def gradient(meta: Tree, limit: float, weight: Tensor | None) -> Tree:
        like = trees.leaves(meta)[0]
        numbers = [torch.as_tensor(one).to(like) for one in (limit, weight) if one is not None]
        return averaged(_gradient, meta, *numbers)

    def judged(meta: Tree) -> tuple[Tensor, Tensor]:
        figures = averaged(_judged, meta)
        return figures["loss"], figures["kl"]

    collected = Collected(
        gradient,
        judged,
        inner_kl=lambda meta: averaged(_inner, meta)["kl"],
        fisher=lambda meta, v: averaged(_fisher, meta, v),
    )
    return collected, averaged(_logs, model.meta)


def acted(model: Model, tasks: Task, traces: TraceCache | None = None) -> Task:
    """Return what a policy did in T tasks, as it is evaluated: support and query sets of trajectories."""
    walked: Task = vectorise.per_task_of(model, _acted, tasks, traces)
    return walked


def _over_groups(
    function: Any,
    model: Model,
    batches: Sequence[Task],
    progress: float,
    shared: Sequence[Any],
    traces: TraceCache | None,
) -> Tree:
    n_tasks = sum(len(batch.classes) for batch in batches)
    parts = []
    for batch in batches:
        mean = vectorise.averaged(function.__name__, function, model, batch, progress, *shared, traces=traces)
        share = len(batch.classes) / n_tasks
        parts.append(trees.map(lambda leaf, share=share: leaf * share, mean))
    return reduce(partial(trees.map, torch.add), parts)


def _acted(model: Model, task: Task) -> Task:
    return task


def after(model: Model, scheduled: Any, task: Task, steps: int) -> tuple[Tensor, Moves]:
    """Return a policy's outputs after so many inner steps, where one acted after as many, and its moves."""
    algorithm, net, meta, buffers, h = model
    half = task.query
    if steps < len(task.support.x):
        leaves, form = trees.flatten(task.support)
        half = Query(*trees.unflatten([leaf[steps] for leaf in leaves], form))
        task = task._replace(support=trees.unflatten([leaf[:steps] for leaf in leaves], form))
        h = dataclasses.replace(h, inner_steps=steps)
    # Judged by a score that is the outputs themselves, as nothing else hands them out to be differentiated.
    net = net._replace(objective=net.objective._replace(score=lambda outputs, y: outputs))
    _, aux = algorithm.task_loss(net, meta, buffers, task._replace(query=half), h, scheduled)
    return aux.logs[net.objective.metric.name], cast(Moves, half.y)


def _last(model: Model, scheduled: Any, task: Task) -> tuple[Tensor, Moves]:
    return after(model, scheduled, task, len(task.support.x))


def _logs(model: Model, scheduled: Any, task: Task) -> Tree:
    outputs, y = _last(model, scheduled, task)
    objective = model.net.objective
    return {"loss": objective.loss(outputs, y), objective.metric.name: objective.score(outputs, y)}


def _judged(model: Model, scheduled: Any, task: Task) -> Tree:
    outputs, y = _last(model, scheduled, task)
    return {"loss": likelihood_ratio(outputs, y), "kl": divergence(outputs, y)}


def _inner(model: Model, scheduled: Any, task: Task) -> Tree:
    n_steps = len(task.support.x)
    apart = [divergence(*after(model, scheduled, task, steps)) for steps in range(n_steps)]
    return {"kl": torch.stack(apart).mean() if apart else trees.leaves(model.meta)[0].new_zeros(())}


def _gradient(model: Model, scheduled: Any, task: Task, limit: Tensor, weight: Tensor | None = None) -> Tree:
    def loss(meta: Tree) -> Tensor:
        at = model._replace(meta=meta)
        loss = clipped_ratio(*_last(at, scheduled, task), limit)
        return loss if weight is None else loss + weight * _inner(at, scheduled, task)["kl"]

    return grad(loss)(model.meta)


def _fisher(model: Model, scheduled: Any, task: Task, v: Tree) -> Tree:
    def outputs(meta: Tree) -> Tensor:
        return _last(model._replace(meta=meta), scheduled, task)[0]

    # J^T M J v, M the second derivative of KL by outputs: where KL is 0, so is what J's own derivative adds.
    # In reverse mode alone: torch's forward mode imports what it warns of.
    at, pull, *_ = vjp(outputs, model.meta)
    y = cast(Moves, task.query.y)
    moved = grad(lambda u: trees.dot(pull(u)[0], v))(torch.zeros_like(at))
    curved = grad(lambda at: (grad(lambda outputs: divergence(outputs, y))(at) * moved).sum())(at)
    product: Tree = pull(curved)[0]
    return product
