"""Indices into tasks: drawing meta-train tasks, and the frozen tasks of meta-validation and meta-test."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from metabench import seeds
from metabench.config import TaskConfig
from metabench.core import Query, Split, Splits, Support, Task


class Indices(NamedTuple):
    """Which classes and examples make up T tasks; the position along N is the label."""

    classes: Tensor  # int64 [T, N]
    examples: Tensor  # int64 [T, N, K+Q], distinct along the last axis


class FrozenTasks(NamedTuple):
    """A fixed list of tasks, the same in every process, with the hash that proves it."""

    indices: Indices
    shot: int
    query: int
    hash: str


def sample(
    generator: Generator,
    n_classes: int,
    n_examples: int,
    way: int,
    shot: int,
    query: int,
    n_tasks: int,
    counts: Tensor | None = None,
) -> Indices:
    """Draw tasks uniformly: distinct classes, then distinct examples of each.

    Args:
        counts: int64 [n_classes], where a class has fewer than n_examples; none has fewer than shot + query.
    """
    classes = torch.rand(n_tasks, n_classes, generator=generator).topk(way).indices
    scores = torch.rand(n_tasks, way, n_examples, generator=generator)
    if counts is not None:
        is_missing = torch.arange(n_examples) >= counts[classes][..., None]
        scores = scores.masked_fill(is_missing, -1)  # below every draw, so that topk takes them last
    return Indices(classes, scores.topk(shot + query).indices)


def shapes(images: Tensor, way: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of one input and how many outputs a network needs for it."""
    if images.is_floating_point():
        return (images.shape[-1] - 1,), 1
    return tuple(images.shape[2:]), way


def gather(images: Tensor, indices: Indices, shot: int) -> Task:
    """Cut T tasks out of a split's images, or out of its table of points; leaves have a leading [T]."""
    classes, examples = (index.to(images.device) for index in indices)
    drawn = images[classes[:, :, None], examples]  # [T, N, K+Q, C, H, W]
    if images.is_floating_point():
        drawn = drawn.to(torch.get_default_dtype())
        part = _points
    else:
        drawn = drawn.to(torch.get_default_dtype()) / 255
        part = _labelled
    return Task(Support(*part(drawn[:, :, :shot])), Query(*part(drawn[:, :, shot:])), classes)


def _labelled(x: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.arange(x.shape[1], device=x.device).repeat_interleave(x.shape[2])
    return x.flatten(1, 2), labels.expand(len(x), -1)


def _points(x: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.flatten(1, 2)
    return flat[..., :-1], flat[..., -1:]


def frozen(
    splits: Splits,
    split: Literal["meta_validation", "meta_test"],
    task: TaskConfig,
    n_tasks: int,
    pool: Literal["search", "confirm", "test"],
) -> FrozenTasks:
    """Return the first tasks of a pool; task i does not depend on how many are asked for.

    Each task has a generator of its own, named by data set, split, shape of the task, pool and position.
    """
    data: Split = getattr(splits, split)
    n_classes, n_examples = data.images.shape[:2]
    name = (splits.name, split, n_classes, n_examples, task.way, task.shot, task.test_query, pool)
    shape = (n_classes, n_examples, task.way, task.shot, task.test_query)
    drawn = [
        sample(seeds.generator("frozen", *name, index), *shape, 1, data.counts) for index in range(n_tasks)
    ]
    indices = Indices(torch.cat([d.classes for d in drawn]), torch.cat([d.examples for d in drawn]))
    digest = hashlib.sha256("\x1f".join(map(str, (*name, n_tasks, *data.classes))).encode())
    counts = () if data.counts is None else (data.counts,)
    for tensor in (*indices, data.images, *counts):
        digest.update(tensor.cpu().contiguous().numpy().data)  # no copy: images may not fit in memory
    return FrozenTasks(indices, task.shot, task.test_query, digest.hexdigest())
