"""The tasks that labels are asked for in: a start, a pool in random order, and queries.

Their labels stay here and in `rounds.py`, which reveals them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from metabench.acquisition import NO_CLASS
from metabench.acquisition.config import LabelConfig, in_pool
from metabench.core import Net, Query, Support, Task, Tree
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks
from metabench.training import evaluate, vectorise
from metabench.training.vectorise import Model


class Block(NamedTuple):
    """Some of the tasks; T of them, N ways, K of the start a class, M in the pool, Q queries a class."""

    x: Tensor  # [T, N*K + M + N*Q, ...]: pictures or features of the start, the pool, the queries
    start_y: Tensor  # [T, N*K]
    pool_y: Tensor  # [T, M], NO_CLASS of a distractor: for who reveals labels alone
    query_y: Tensor  # [T, N*Q]
    n_ways: int

    @property
    def n_start(self) -> int:
        """Return how many examples of a task have a label before the first round."""
        return self.start_y.shape[1]

    @property
    def n_around(self) -> int:
        """Return how many examples of a task are no queries."""
        return self.n_start + self.pool_y.shape[1]


def labels_of_pool(indices: sampling.Indices, way: int, per_class: int) -> Tensor:
    """Return the labels of a pool as it is drawn and shuffled, NO_CLASS of distractors: [T, (N+D)*P]."""
    assert indices.order is not None, "or there is no pool"
    labels = indices.order // per_class  # before shuffling the pool lies class by class
    return labels.masked_fill(labels >= way, NO_CLASS)


def kept(indices: sampling.Indices, config: LabelConfig, way: int) -> Tensor:
    """Return the places of what a skewed pool keeps, in the pool's order: [T, M]."""
    assert indices.order is not None, "or there is no pool"
    counts = torch.tensor([*in_pool(config, way), *[config.pool] * config.distractors])
    is_kept = indices.order % config.pool < counts[indices.order // config.pool]
    return is_kept.nonzero()[:, 1].view(len(is_kept), -1)


def gather(images: Tensor, tasks: FrozenTasks, part: slice, config: LabelConfig) -> Block:
    """Cut some of the tasks out of a split's images."""
    (group,) = tasks.groups
    way, indices = group.shape.way, sampling.part(group.indices, part)
    task = frozen.gather(images, indices, group.shape)
    (start, start_y, pool), (query, query_y) = task.support, task.query  # type: ignore[misc]
    place = kept(indices, config, way)
    labels = labels_of_pool(indices, way, config.pool).gather(1, place).to(images.device)
    place = place.to(images.device)
    row = torch.arange(len(place), device=images.device)[:, None]
    if config.start == 0:  # the same tasks, whose one labelled example a class nobody sees
        start, start_y = start[:, :0], start_y[:, :0]
    return Block(torch.cat([start, pool[row, place], query], 1), start_y, labels, query_y, way)


def normalised_alike(net: Net, around: Tensor) -> Net:
    """Return a network whose batch norm moments are those of a task's start and whole pool, whoever asks.

    Those of the labelled examples would differ between acquisitions, and so would the learner.
    """
    if not net.norm_channels:
        return net

    def embed(params: Tree, x: Tensor, moments: Tree = None) -> tuple[Tensor, Tree]:
        return net.embed(params, x, net.embed(params, around)[1] if moments is None else moments)

    return net._replace(embed=embed, batch_norm="support_stats")


def blocks(
    model: Model, images: Tensor, tasks: FrozenTasks, config: LabelConfig
) -> tuple[Model, Callable[[], Iterator[Block]]]:
    """Return the tasks in blocks as the learner is to see them, and the learner that sees them so.

    A learner of features gets those, computed once for all acquisitions and rounds.
    """
    (group,) = tasks.groups
    sized = model._replace(net=model.net._replace(way=group.shape.way))
    n_tasks = len(group.positions)
    parts = [slice(at, min(at + evaluate.BLOCK, n_tasks)) for at in range(0, n_tasks, evaluate.BLOCK)]

    def pictures() -> Iterator[Block]:
        yield from (gather(images, tasks, part, config) for part in parts)

    if not model.algorithm.is_of_features:
        return sized, pictures
    embedded = [block._replace(x=_features(sized, block)) for block in pictures()]

    def as_it_is(params: Tree, x: Tensor, moments: Tree = None) -> tuple[Tensor, Tree]:
        return x, {}

    net = sized.net._replace(embed=as_it_is, norm_channels={}, max_activation_numel=sized.net.features)
    return sized._replace(net=net), lambda: iter(embedded)


def _features(model: Model, block: Block) -> Tensor:
    """Embed all examples of each task: [T, n, F]."""

    def embed(model: Model, task: Task) -> Tensor:
        theta = model.meta["theta"]
        around, moments = model.net.embed(theta, task.support.x)
        return torch.cat([around, model.net.embed(theta, task.query.x, moments or None)[0]])

    around, query = block.x.split([block.n_around, block.query_y.shape[1]], 1)
    tasks = Task(Support(around, block.pool_y), Query(query, block.query_y), block.query_y)
    size = vectorise.at_once(model.net, block.x.device)
    parts, _ = vectorise.in_parts(
        lambda part: vectorise.per_task_of(model, embed, vectorise.cut(tasks, part)), len(block.x), size
    )
    return torch.cat(parts)
