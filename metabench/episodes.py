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
    generator: Generator, n_classes: int, n_examples: int, way: int, shot: int, query: int, n_tasks: int
) -> Indices:
    """Draw tasks uniformly: distinct classes, then distinct examples of each."""
    classes = torch.rand(n_tasks, n_classes, generator=generator).topk(way).indices
    examples = torch.rand(n_tasks, way, n_examples, generator=generator).topk(shot + query).indices
    return Indices(classes, examples)


def gather(images: Tensor, indices: Indices, shot: int) -> Task:
    """Cut T tasks out of uint8 images [class, example, C, H, W]; leaves have a leading [T]."""
    classes, examples = (index.to(images.device) for index in indices)
    n_tasks, way = classes.shape
    drawn = images[classes[:, :, None], examples]  # [T, N, K+Q, C, H, W]
    scaled = drawn.to(torch.get_default_dtype()) / 255
    labels = torch.arange(way, device=images.device)

    def part(x: Tensor) -> tuple[Tensor, Tensor]:
        y = labels.repeat_interleave(x.shape[2]).expand(n_tasks, -1)
        return x.flatten(1, 2), y

    return Task(Support(*part(scaled[:, :, :shot])), Query(*part(scaled[:, :, shot:])))


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
    drawn = [sample(seeds.generator("frozen", *name, index), *shape, 1) for index in range(n_tasks)]
    indices = Indices(torch.cat([d.classes for d in drawn]), torch.cat([d.examples for d in drawn]))
    digest = hashlib.sha256("\x1f".join(map(str, (*name, n_tasks, *data.classes))).encode())
    for tensor in (*indices, data.images):
        digest.update(tensor.cpu().numpy().tobytes())
    return FrozenTasks(indices, task.shot, task.test_query, digest.hexdigest())
