"""Adapt and predict over frozen tasks; meta-validation and meta-test are this one function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metabench import algorithms, nets
from metabench.core import Net, Task, Tree
from metabench.core.config import NetworkConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks, Group
from metabench.training import vectorise
from metabench.training.graphs.trace import TraceCache
from metabench.training.vectorise import Model

BLOCK = 50
"""Tasks that are gathered and adapted at once."""


class Evaluation(NamedTuple):
    """The figure and the mean loss of each task's queries."""

    score: NDArray[np.float64]  # [T], accuracy in [0, 1] or error
    loss: NDArray[np.float64]  # [T]


def evaluate(
    model: Model, images: Tensor, tasks: FrozenTasks, traces: TraceCache | None = None
) -> Evaluation:
    """Adapt to each frozen task's support set and score its queries.

    Args:
        traces: of one algorithm, network and settings, where the same is done again and again.
    """

    def score(net: Net, task: Task, meta: Tree, buffers: Tree) -> Tree:
        learner = model.algorithm.adapt(net, meta, buffers, task.support, model.h)
        outputs, y = model.algorithm.predict(net, learner, task.query.x), task.query.y
        return {"score": net.objective.score(outputs, y), "loss": net.objective.loss(outputs, y)}

    return Evaluation(**over(score, model.net, images, tasks, model.meta, model.buffers, traces=traces))


def nearest_mean(images: Tensor, tasks: FrozenTasks) -> Evaluation:
    """Score the nearest class mean of raw pixels by cosine: the floor for anything that learns."""
    most = max(group.shape.way for group in tasks.groups)
    net = nets.build(NetworkConfig(name="mlp"), most, frozen.input_shape(images))  # only for the ways
    return evaluate(Model(algorithms.get("nearest_mean"), net, {}, {}, None), images, tasks)


def over(
    function: Callable[..., Tree],
    net: Net,
    images: Tensor,
    tasks: FrozenTasks,
    *shared: Tree,
    traces: TraceCache | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Apply a function of a network, one task and what tasks share, which returns a dict, to frozen tasks.

    Returns:
        Arrays [T, ...] by the names in that dict.
    """
    blocks, positions = [], []
    size = vectorise.at_once(net, images.device, BLOCK)
    for group in tasks.groups:

        def applied(part: slice, group: Group = group) -> Tree:
            block = frozen.gather(images, sampling.part(group.indices, part), group.shape)
            sized = vectorise.for_tasks(net, block)
            name = ("evaluation", sized.way)
            return vectorise.per_task(partial(function, sized), block, *shared, traces=traces, name=name)

        parts, size = vectorise.in_parts(applied, len(group.positions), size)
        blocks += parts
        positions.append(group.positions)
    order = torch.cat(positions).argsort()
    whole = {key: torch.cat([block[key] for block in blocks]).double().cpu() for key in blocks[0]}
    return {key: values[order].numpy() for key, values in whole.items()}
