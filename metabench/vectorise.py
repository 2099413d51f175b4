"""The only vmap: functions of one task, over many tasks, in chunks that fit memory.

Gradients are taken per task and then averaged, `vmap(grad(.))`: the gradient of a vmapped loss is wrong to
second order for torch's own affine norm layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from metabench import trees
from metabench.core import Algorithm, Logs, MetabenchError, Net, Query, Task, Tree
from metabench.replay import Tape


def chunks(tasks: Task, size: int) -> Iterator[Task]:
    """Cut T tasks into groups of at most `size`."""
    for start in range(0, len(tasks.classes), size):
        part = slice(start, start + size)
        support = type(tasks.support)(*[leaf[part] for leaf in tasks.support])
        query = Query(*[leaf[part] for leaf in tasks.query])
        yield Task(support, query, tasks.classes[part])


def meta_gradient(
    algorithm: Algorithm,
    net: Net,
    meta: Tree,
    buffers: Tree,
    tasks: Task,
    h: Any,
    progress: float,
    chunk: int,
    tape: Tape | None = None,
) -> tuple[Tree, Tensor, Logs, Tree]:
    """Average the gradient with respect to meta, the loss, the logs and the buffers over T tasks.

    Args:
        chunk: tasks whose graphs are in memory at once.
        tape: of one algorithm, network and settings; takes over once recording the operations pays.
    """

    def task_loss(meta: Tree, buffers: Tree, task: Task) -> tuple[Tensor, tuple[Any, Any]]:
        loss, aux = algorithm.task_loss(net, meta, buffers, task, h, progress)
        return loss, (dict(aux.logs), aux.buffers)

    per_task = vmap(grad_and_value(task_loss, has_aux=True), in_dims=(None, None, 0))
    run = per_task if tape is None else partial(tape.run, (net.way, algorithm.phase(h, progress)), per_task)
    n_tasks = len(tasks.classes)
    _refuse_autocast(tasks)
    total: Tree = None
    for part in chunks(tasks, chunk):
        gradient, (loss, (logs, new_buffers)) = run(meta, buffers, part)
        summed = {"gradient": gradient, "loss": loss, "logs": logs, "buffers": new_buffers}
        summed = trees.map(lambda leaf: leaf.sum(0), summed)
        total = summed if total is None else trees.map(torch.add, total, summed)
    mean = trees.map(lambda leaf: leaf / n_tasks, total)
    return mean["gradient"], mean["loss"], mean["logs"], mean["buffers"]


def grouped_meta_gradient(
    algorithm: Algorithm,
    net: Net,
    meta: Tree,
    buffers: Tree,
    groups: Sequence[Task],
    h: Any,
    progress: float,
    chunk: int,
    tape: Tape | None = None,
) -> tuple[Tree, Tensor, Logs, Tree]:
    """Do the same over groups of tasks, as tasks of different ways or shots cannot be computed at once."""
    n_tasks = sum(len(tasks.classes) for tasks in groups)
    total: Tree = None
    for tasks in groups:
        found = meta_gradient(
            algorithm, for_tasks(net, tasks), meta, buffers, tasks, h, progress, chunk, tape
        )
        if len(groups) == 1:
            return found
        share = len(tasks.classes) / n_tasks
        part = dict(zip(("gradient", "loss", "logs", "buffers"), found, strict=True))
        part = trees.map(lambda leaf, share=share: leaf * share, part)
        total = part if total is None else trees.map(torch.add, total, part)
    return total["gradient"], total["loss"], total["logs"], total["buffers"]


def for_tasks(net: Net, tasks: Task) -> Net:
    """Return a network for the ways of T tasks of one shape."""
    return net if tasks.query.y.is_floating_point() else net._replace(way=tasks.classes.shape[-1])


def per_task(function: Callable[[Task], Tree], tasks: Task) -> Tree:
    """Apply a function of one task to T tasks without recording gradients; leaves gain a leading [T]."""
    _refuse_autocast(tasks)
    with torch.no_grad():
        return vmap(function)(tasks)


def per_example(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of one example to each of a task's [n, ...] on its own."""
    return vmap(function)(x)


def _refuse_autocast(tasks: Task) -> None:
    device = tasks.support.x.device.type
    if torch.is_autocast_enabled(device):
        raise MetabenchError(
            f"torch.autocast is on for {device}: gradients of gradients lose too many of bfloat16's 8 bits; "
            "leave the autocast block"
        )
