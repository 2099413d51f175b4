"""Looking at trajectories again: what an outer optimiser asks of a meta-batch that was collected once.

Outputs of a policy after inner steps come from `task_loss`, which sees through them as its algorithm does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
    batches = [vectorise.per_task_of(model._replace(h=adapts), _acted, tasks, traces) for tasks in groups]
    shares = [len(batch.classes) / sum(len(one.classes) for one in batches) for batch in batches]

    def averaged(function: Any, meta: Tree, *shared: Any) -> Tree:
        at, name = model._replace(meta=meta), function.__name__
        means = [
            vectorise.averaged(name, function, at, batch, progress, *shared, traces=traces)
            for batch in batches
        ]
        return trees.map(
            lambda *each: sum(one * share for one, share in zip(each, shares, strict=True)), *means
        )

    def gradient(meta: Tree, limit: float | None, weight: Tensor | None) -> Tree:
        like = trees.leaves(meta)[0]
        numbers = {"limit": limit, "weight": weight}
        given = {
            name: torch.as_tensor(one, dtype=like.dtype, device=like.device)
            for name, one in numbers.items()
            if one is not None
        }
        return averaged(_gradient, meta, given)

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


def _gradient(model: Model, scheduled: Any, task: Task, given: Mapping[str, Tensor]) -> Tree:
    def loss(meta: Tree) -> Tensor:
        at = model._replace(meta=meta)
        outputs, y = _last(at, scheduled, task)
        limit = given.get("limit")
        loss = likelihood_ratio(outputs, y) if limit is None else clipped_ratio(outputs, y, limit)
        return loss + given["weight"] * _inner(at, scheduled, task)["kl"] if "weight" in given else loss

    return grad(loss)(model.meta)


def _fisher(model: Model, scheduled: Any, task: Task, v: Tree) -> Tree:
    def outputs(meta: Tree) -> Tensor:
        return _last(model._replace(meta=meta), scheduled, task)[0]

    # J^T M J v, M the second derivative of KL by outputs: where KL is 0, so is what J's own derivative adds.
    # In reverse mode alone: torch's forward mode imports what it warns of.
    at, pull = vjp(outputs, model.meta)
    y = cast(Moves, task.query.y)
    moved = grad(lambda u: trees.dot(pull(u)[0], v))(torch.zeros_like(at))
    curved = grad(lambda at: (grad(lambda outputs: divergence(outputs, y))(at) * moved).sum())(at)
    product: Tree = pull(curved)[0]
    return product
