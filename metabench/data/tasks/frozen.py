"""Indices into tasks: cutting out images, and the frozen tasks of meta-validation and meta-test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from metabench.core import Query, SemiSupport, Split, Splits, Support, Task, device, seeds
from metabench.core.config import TaskConfig
from metabench.data.tasks import sampling
from metabench.data.tasks.sampling import Indices, Shape

Part = Literal["meta_validation", "meta_test"]
Pool = Literal["search", "confirm", "test"]


class Group(NamedTuple):
    """Tasks of one shape among frozen tasks."""

    shape: Shape
    positions: Tensor  # int64 [n], ascending, in the whole list
    indices: Indices


class FrozenTasks(NamedTuple):
    """A fixed list of tasks, the same in every process, with the hash that proves it."""

    groups: tuple[Group, ...]
    hash: str


def input_shape(images: Tensor) -> tuple[int, ...]:
    """Return the shape of one input: an image, or a point."""
    return (images.shape[-1] - 1,) if images.is_floating_point() else tuple(images.shape[2:])


def n_outputs(images: Tensor, way: int) -> int:
    """Return how many outputs a network needs: one a class, or the number to predict."""
    return 1 if images.is_floating_point() else way


def gather(images: Tensor, indices: Indices, shape: Shape) -> Task:
    """Cut T tasks out of a split's images, or out of its table of points; leaves have a leading [T]."""
    parts = sampling.tensors(indices).items()
    indices = Indices(**{name: device.to_device_async(index, images.device) for name, index in parts})
    classes, examples = indices.classes, indices.examples
    max_shots, n_query = shape.max_shots, shape.query
    labels = torch.arange(shape.way, device=images.device)
    if indices.shots is None:
        support = _cut(images, classes[:, :, None], examples[:, :, :max_shots]).flatten(1, 2)
        support_y = labels.repeat_interleave(max_shots).expand(len(classes), -1)
    else:
        support_y, place = _unbalanced(indices.shots, shape.way * shape.shot)
        flat = examples[:, :, :max_shots].flatten(1)
        support = _cut(images, classes.gather(1, support_y), flat.gather(1, support_y * max_shots + place))
    query_classes = classes if indices.query_classes is None else indices.query_classes
    query = _cut(images, query_classes[:, :, None], examples[:, :, max_shots : max_shots + n_query]).flatten(
        1, 2
    )
    if images.is_floating_point():
        return Task(
            Support(support[..., :-1], support[..., -1:]), Query(query[..., :-1], query[..., -1:]), classes
        )
    query_y = labels.repeat_interleave(n_query).expand(len(classes), -1)
    labelled = Support(support, support_y)
    if indices.order is not None:
        beside = SemiSupport(support, support_y, _unlabelled(images, indices, shape))
        labelled = cast(Support, beside)  # what reads x and y alone takes either
    return Task(labelled, Query(query, query_y), classes)


def _cut(images: Tensor, classes: Tensor, examples: Tensor) -> Tensor:
    # One flat index and one copy: picking by two indices, element by element, takes twice as long.
    rows = classes * images.shape[1] + examples
    drawn = images.flatten(0, 1).index_select(0, rows.flatten())
    if images.is_floating_point():
        drawn = drawn.to(torch.get_default_dtype())
    elif images.device.type == "cpu":
        # The same numbers as below, but numpy converts and divides in one pass over memory.
        scaled = torch.empty(drawn.shape)
        np.true_divide(drawn.numpy(), scaled.numpy().dtype.type(255), out=scaled.numpy())
        drawn = scaled
    else:
        drawn = drawn.to(torch.get_default_dtype()).div_(255)
    return drawn.view(*rows.shape, *images.shape[2:])


def _unbalanced(shots: Tensor, n_support: int) -> tuple[Tensor, Tensor]:
    """Return the label of each support example, class by class, and its place within its class: [T, N*K]."""
    ends = shots.cumsum(1)
    row = torch.arange(n_support, device=shots.device).expand(len(shots), -1).contiguous()
    labels = torch.searchsorted(ends, row, right=True)
    return labels, row - (ends - shots).gather(1, labels)


def _unlabelled(images: Tensor, indices: Indices, shape: Shape) -> Tensor:
    """Cut the unlabelled examples of the task's classes and the distractors, shuffled: [T, (N+D)*U, ...]."""
    distractors, distractor_examples, order = indices.distractors, indices.distractor_examples, indices.order
    assert distractors is not None, "or there are no unlabelled examples"
    assert distractor_examples is not None, "or there are no unlabelled examples"
    assert order is not None, "or there are no unlabelled examples"
    unlabelled = indices.examples[:, :, shape.max_shots + shape.query :]
    examples = torch.cat([unlabelled, distractor_examples], 1)  # [T, N+D, U]
    classes = torch.cat([indices.classes, distractors], 1)[:, :, None].expand_as(examples)
    classes, examples = (index.flatten(1).gather(1, order) for index in (classes, examples))
    return _cut(images, classes, examples)


def frozen(splits: Splits, split: Part, task: TaskConfig, n_tasks: int, pool: Pool) -> FrozenTasks:
    """Return the first tasks of a pool; task i does not depend on how many are asked for.

    Each task has a generator of its own, named by data set, split, kind of task, pool and position.
    """
    data: Split = getattr(splits, split)
    name = name_of(splits.name, split, data, task, pool)
    source = sampling.pool(data, task)
    by_shape: dict[Shape, list[tuple[int, Indices]]] = {}
    for index in range(n_tasks):
        generator = seeds.generator("frozen", *name, index)
        ((shape, _),) = sampling.shapes(task, task.test_query, 1, generator)
        by_shape.setdefault(shape, []).append((index, sampling.sample(generator, source, shape, 1)))
    groups = tuple(
        Group(shape, torch.tensor([index for index, _ in drawn]), sampling.join([one for _, one in drawn]))
        for shape, drawn in sorted(by_shape.items())
    )
    return FrozenTasks(groups, digest(name, data, groups))


def name_of(dataset: str, split: str, data: Split, task: TaskConfig, pool: str) -> tuple[object, ...]:
    """Name a pool of tasks by all that they are drawn from."""
    n_classes, n_examples = data.images.shape[:2]
    name = (dataset, split, n_classes, n_examples, str(task.way), str(task.shot), task.test_query, pool)
    special = {key: getattr(task, key) for key in ("most_shots", "unlabelled", "distractors", "domains")}
    usual = TaskConfig(dataset=task.dataset)
    changed = [f"{key}={value}" for key, value in special.items() if value != getattr(usual, key)]
    return (*name, *changed)


def digest(name: tuple[object, ...], data: Split, groups: tuple[Group, ...]) -> str:
    """Hash what tasks are drawn from, and which they are."""
    n_tasks = sum(len(group.positions) for group in groups)
    sha = hashlib.sha256("\x1f".join(map(str, (*name, n_tasks, *data.classes))).encode())
    drawn = [tensor for group in groups for tensor in sampling.tensors(group.indices).values()]
    if len(groups) > 1:
        drawn += [group.positions for group in groups]
    counts = () if data.counts is None else (data.counts,)
    for tensor in (*drawn, data.images, *counts):
        sha.update(tensor.cpu().contiguous().numpy().data)  # no copy: images may not fit in memory
    return sha.hexdigest()


def classes_of(tasks: FrozenTasks) -> list[list[int]]:
    """List the classes that each task asks about, by their rows in the split, its queries' included."""
    rows: dict[int, list[int]] = {}
    for group in tasks.groups:
        classes = group.indices.classes
        if group.indices.query_classes is not None:
            classes = torch.cat([classes, group.indices.query_classes], 1)
        rows |= zip(group.positions.tolist(), classes.tolist(), strict=True)
    return [rows[position] for position in sorted(rows)]


def first(tasks: FrozenTasks, n_tasks: int) -> FrozenTasks:
    """Return the first tasks of a list, under the hash of the whole."""
    return _chosen(tasks, lambda positions: positions < n_tasks)


def rest(tasks: FrozenTasks, n_tasks: int) -> FrozenTasks:
    """Return the tasks of a list after its first ones, under the hash of the whole."""
    return _chosen(tasks, lambda positions: positions >= n_tasks)


def _chosen(tasks: FrozenTasks, is_chosen: Callable[[Tensor], Tensor]) -> FrozenTasks:
    groups = []
    for group in tasks.groups:
        chosen = is_chosen(group.positions)
        if chosen.any():
            groups.append(Group(group.shape, group.positions[chosen], sampling.part(group.indices, chosen)))
    return FrozenTasks(tuple(groups), tasks.hash)
