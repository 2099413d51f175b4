"""The only vmap over tasks: functions of one task, over many tasks, in chunks that fit memory.

Gradients are taken per task and then averaged, `vmap(grad(.))`: the gradient of a vmapped loss is wrong to
second order for torch's own affine norm layers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from metabench.core import Algorithm, Logs, MetabenchError, Net, Task, Tree, trees
from metabench.core import device as memory
from metabench.training import rollouts
from metabench.training.graphs.trace import Numbers, TraceCache

MOST = 32
"""Tasks whose graphs are in memory at once, of environments with few steps so many times more."""

HORIZON = 100
"""Steps of an environment for which so many tasks are enough; shorter ones take as long to compose."""

CACHED = 1_700_000
"""Bytes of one hidden image for each task, which a processor's cache should hold."""


def at_once(net: Net, device: torch.device, most: int = MOST) -> int:
    """Return how many tasks are computed at once: as many as that is fast for."""
    if net.environment is not None:
        most *= max(1, HORIZON // net.environment.horizon)
    if device.type != "cpu":
        return most
    # Fewer than four would take longer to compose than to compute.
    return min(most, max(4, CACHED // (4 * net.max_activation_numel)))


Result = TypeVar("Result")


def in_parts(function: Callable[[slice], Result], n_tasks: int, size: int) -> tuple[list[Result], int]:
    """Apply a function to parts of T tasks, of half the size each time that the device's memory is too small.

    Returns:
        What it gave for each part, and the size that fitted.
    """
    results: list[Result] = []
    start = 0
    while start < n_tasks:
        n_parts = -(-(n_tasks - start) // size)  # as few as may be, and alike
        part = slice(start, start - (start - n_tasks) // n_parts)
        try:
            results.append(function(part))
        except torch.OutOfMemoryError:
            if part.stop - start == 1:
                raise
            size = (part.stop - start) // 2
            continue
        start = part.stop
    return results, size


def cut(tasks: Task, part: slice) -> Task:
    """Return some of T tasks."""
    leaves, form = trees.flatten(tasks)
    cut: Task = trees.unflatten([leaf[part] for leaf in leaves], form)
    return cut


class Model(NamedTuple):
    """An algorithm, its network and settings, and what it has learnt: all that adapting to tasks takes."""

    algorithm: Algorithm
    net: Net
    meta: Tree
    buffers: Tree
    h: Any


def identity(model: Model) -> Hashable:
    """Return what a model's operations depend on, but for its settings."""
    net = model.net
    built = net.embed if net.built_of is None else net.built_of
    return model.algorithm, built, net.outputs, net.way, net.batch_norm, net.objective, net.environment


class MetaGradient(NamedTuple):
    """Means over tasks."""

    gradient: Tree  # with respect to meta
    loss: Tensor
    logs: Logs
    buffers: Tree


def meta_gradient(
    model: Model, tasks: Task, progress: float, chunk: int | None = None, traces: TraceCache | None = None
) -> MetaGradient:
    """Average the gradient with respect to meta, the loss, the logs and the buffers over T tasks.

    Args:
        chunk: tasks whose graphs are in memory at once; without it, what is fast and fits.
        traces: where the operations are recorded, to be replayed from then on.
    """

    def one(model: Model, scheduled: Any, task: Task) -> Tree:
        algorithm, net, meta, buffers, h = model
        task = rollouts.collect(model, task)

        def task_loss(meta: Tree, buffers: Tree, task: Task) -> tuple[Tensor, tuple[Any, Any]]:
            loss, aux = algorithm.task_loss(net, meta, buffers, task, h, scheduled)
            return loss, (dict(aux.logs), aux.buffers)

        slope = grad_and_value(task_loss, has_aux=True)
        gradient, (loss, (logs, new_buffers)) = slope(meta, buffers, task)
        return {"gradient": gradient, "loss": loss, "logs": logs, "buffers": new_buffers}

    tasks = rollouts.draw(model.net.environment, tasks, rollouts.training_steps(model.h))
    return MetaGradient(**averaged("meta-gradient", one, model, tasks, progress, chunk=chunk, traces=traces))


def averaged(
    name: str,
    function: Callable[..., Tree],
    model: Model,
    tasks: Task,
    progress: float,
    *shared: Tree,
    chunk: int | None = None,
    traces: TraceCache | None = None,
) -> Tree:
    """Average over T tasks what a function returns of one: (model, scheduled, task, *shared) -> Tree.

    Args:
        name: by which traces tell functions apart.
        shared: further arguments, the same for all tasks.
    """
    algorithm, net, meta, buffers, h = model
    numbers = Numbers(h, algorithm.schedule(h, progress))

    def summed(row: Tensor, meta: Tree, buffers: Tree, tasks: Task, *shared: Tree) -> Tree:
        settings, scheduled = numbers.filled(row)

        def one(meta: Tree, buffers: Tree, task: Task, *shared: Tree) -> Tree:
            return function(Model(algorithm, net, meta, buffers, settings), scheduled, task, *shared)

        dims = (None, None, 0, *[None] * len(shared))
        return trees.map(lambda leaf: leaf.sum(0), vmap(one, in_dims=dims)(meta, buffers, tasks, *shared))

    n_tasks, row = len(tasks.classes), numbers.on(tasks.support[0])
    prepare(row.device)
    key = name, identity(model), numbers.static
    size, run = chunk or at_once(net, row.device), summed
    if traces is not None:
        size = min(size, traces.fits.get(key, size))
        run = partial(traces.run, key, summed)
    parts, fits = in_parts(lambda part: run(row, meta, buffers, cut(tasks, part), *shared), n_tasks, size)
    if traces is not None and fits < size:
        traces.fits[key] = fits
    total = reduce(partial(trees.map, torch.add), parts)
    return trees.map(lambda leaf: leaf / n_tasks, total)


def grouped_meta_gradient(
    model: Model, groups: Sequence[Task], progress: float, traces: TraceCache | None = None
) -> MetaGradient:
    """Do the same over groups of tasks, as tasks of different ways or shots cannot be computed at once."""
    n_tasks = sum(len(tasks.classes) for tasks in groups)
    parts = []
    for tasks in groups:
        fitting = model._replace(net=for_tasks(model.net, tasks))
        mean = meta_gradient(fitting, tasks, progress, traces=traces)
        if len(groups) == 1:
            return mean
        share = len(tasks.classes) / n_tasks
        parts.append(trees.map(lambda leaf, share=share: leaf * share, mean._asdict()))
    return MetaGradient(**reduce(partial(trees.map, torch.add), parts))


def for_tasks(net: Net, tasks: Task) -> Net:
    """Return a network for the ways of T tasks of one shape."""
    return net._replace(way=tasks.classes.shape[-1]) if net.objective.metric.has_chance else net


def per_task(
    function: Callable[..., Tree],
    tasks: Task,
    *shared: Tree,
    traces: TraceCache | None = None,
    name: Hashable = None,
) -> Tree:
    """Apply a function of one task to T tasks without recording gradients; leaves gain a leading [T].

    Args:
        shared: further arguments, the same for all tasks. With traces the function must take all tensors that
            may change as arguments.
        name: by which traces tell functions apart.
    """
    prepare(tasks.classes.device)
    over_tasks = vmap(function, in_dims=(0, *[None] * len(shared)))
    with torch.no_grad():
        if traces is None:
            return over_tasks(tasks, *shared)
        return traces.run(name, over_tasks, tasks, *shared)


def per_task_of(
    model: Model, function: Callable[[Model, Task], Tree], tasks: Task, traces: TraceCache | None = None
) -> Tree:
    """Do the same for a function of a model and one task, whose network is for tasks of that shape."""
    numbers = Numbers(model.h)

    def one(task: Task, row: Tensor, meta: Tree, buffers: Tree) -> Tree:
        h, _ = numbers.filled(row)
        filled = model._replace(meta=meta, buffers=buffers, h=h)
        return function(filled, rollouts.collect(filled, task))

    steps = rollouts.evaluation_steps(model.algorithm, model.h)
    tasks = rollouts.draw(model.net.environment, tasks, steps)
    row = numbers.on(tasks.support[0])
    name = function.__qualname__, identity(model), numbers.static
    return per_task(one, tasks, row, model.meta, model.buffers, traces=traces, name=name)


def prepare(device: torch.device) -> None:
    """See to it that a device computes in float32 throughout, as torch does it, or refuse."""
    memory.match_cudnn_tf32()
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        raise MetabenchError(
            f"torch.autocast is on for {device.type}: gradients of gradients lose too many of bfloat16's 8 "
            "bits; leave the autocast block"
        )
