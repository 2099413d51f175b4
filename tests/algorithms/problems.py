"""A small real problem in float64 that the algorithms' laws are tested on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from metabench import algorithms, data, nets
from metabench.core import (
    GroupedQuery,
    GroupedSupport,
    Net,
    Objective,
    Query,
    Split,
    Support,
    Task,
    Tree,
    objectives,
    seeds,
    trees,
)
from metabench.core.config import NetworkConfig, TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.training import loop, vectorise
from tests.support import small

WAY, SHOT, QUERY, SIZE = 3, 2, 3, 16
CLASSES = 8


def network(batch_norm: str = "transductive", norm: str = "batch") -> Net:
    """Build a Conv4 of four channels, in two groups where the norm is of groups; or one of torch's layers."""
    if norm == "torch":
        config = NetworkConfig(module="tests.support.own_networks:conv4", head="17", batch_norm=batch_norm)
    else:
        config = NetworkConfig(width=4, norm=norm, batch_norm=batch_norm, groups=2)
    return nets.build(config, WAY, (1, SIZE, SIZE), n_classes=CLASSES)


def point_network() -> Net:
    """Build a small MLP that predicts one number from one."""
    config = NetworkConfig(name="mlp", width=8, norm="none")
    return nets.build(config, 1, (1,), objectives.OBJECTIVES["regression"])


def linear_network(n_inputs: int, objective: Objective) -> Net:
    """Build a network that is its head alone, so that a squared error is quadratic in the parameters."""
    plain = network(norm="none")

    def init(generator: torch.Generator) -> Tree:
        return {"head": nets.init_head(1, n_inputs, generator)}

    return plain._replace(
        init=init,
        embed=lambda params, x, moments=None: (x, {}),
        features=n_inputs,
        outputs=1,
        way=1,
        objective=objective,
    )


def smooth_network(batch_norm: str = "transductive") -> Net:
    """Build a two-block network without kinks: tanh and average pooling, for finite differences."""

    def embed(params: Tree, x: torch.Tensor, moments: Tree = None) -> tuple[torch.Tensor, Tree]:
        used: Tree = {}
        for block in (1, 2):
            x = F.conv2d(x, params[f"conv{block}"]["weight"], padding=1)
            name = f"norm{block}"
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            used[name] = {"mean": mean, "var": var} if moments is None else moments[name]
            mean, var = (used[name][key][:, None, None] for key in ("mean", "var"))
            scale, shift = (params[name][key][:, None, None] for key in ("scale", "shift"))
            x = F.avg_pool2d(torch.tanh((x - mean) / (var + 1e-5).sqrt() * scale + shift), 4)
        return x.flatten(1), used

    def init(generator: torch.Generator) -> Tree:
        params = network(batch_norm).init(generator)
        return {name: params[name] for name in ("conv1", "norm1", "conv2", "norm2", "head")}

    norms = {"norm1": 4, "norm2": 4}
    return network(batch_norm)._replace(
        init=init, embed=embed, norm_channels=norms, norms=tuple(norms), batch_norm=batch_norm
    )


def tasks(n_tasks: int = 4, device: str = "cpu", **beside: int) -> Task:
    """Draw tasks from seeded noise images whose classes differ in their mean image.

    Args:
        beside: unlabelled images of each class, and distractors.
    """
    generator = seeds.generator("problem")
    prototypes = torch.rand(CLASSES, 1, 1, SIZE, SIZE, generator=generator)
    noise = torch.rand(CLASSES, 6, 1, SIZE, SIZE, generator=generator)
    images = ((0.6 * prototypes + 0.4 * noise) * 255).to(torch.uint8).to(device)
    shape, names = sampling.Shape(WAY, SHOT, QUERY, **beside), tuple(map(str, range(CLASSES)))
    source = sampling.pool(Split(images, names, ("noise",) * CLASSES), TaskConfig(dataset="noise"))
    return double(frozen.gather(images, sampling.sample(generator, source, shape, n_tasks), shape))


def points(n_tasks: int = 4, n_inputs: int = 1, device: str = "cpu") -> Task:
    """Draw regression tasks: normal inputs, and targets that a line and a little noise give."""
    generator = seeds.generator("points")

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(n_tasks, *shape, generator=generator, dtype=torch.float64)

    line, halves = draw(n_inputs, 1), []
    for n_points in (6, 5):
        x = draw(n_points, n_inputs)
        halves.append((x.to(device), (x @ line + 0.1 * draw(n_points, 1)).to(device)))
    classes = torch.zeros(n_tasks, 1, dtype=torch.int64, device=device)
    return Task(Support(*halves[0]), Query(*halves[1]), classes)


def acted(name: str, dataset: str, device: str = "cpu", n_tasks: int = 2, **values: Any) -> tuple[Net, Task]:
    """Let a learner act; return its network, to which these tasks are like any others, and the tasks."""
    config = small.acting(name, dataset, **values)
    splits = data.load(config.task)
    learner = loop.build(config, splits)
    model = loop.model(learner, loop.start(config, learner, device))
    group = frozen.frozen(splits, "meta_test", config.task, n_tasks, "test").groups[0]
    drawn = frozen.gather(splits.meta_test.images.to(device), group.indices, group.shape)
    tasks = vectorise.per_task_of(model, lambda model, task: task, drawn)
    return model.net._replace(environment=None), tasks


def grouped(tasks: Task) -> Task:
    """Say of each example of T tasks whether it is protected: each other one, and none of the first task."""
    halves = []
    for kind, part in ((GroupedSupport, tasks.support), (GroupedQuery, tasks.query)):
        group = torch.arange(part.y.shape[1], device=part.y.device).remainder(2).repeat(len(part.y), 1)
        group[0] = 0
        halves.append(kind(part.x, part.y, group))
    return Task(halves[0], halves[1], tasks.classes)  # type: ignore[arg-type]


def double(task: Task) -> Task:
    """Turn the images of tasks into float64."""
    return cast(task, torch.float64)


def cast(task: Task, dtype: torch.dtype) -> Task:
    """Turn all but labels into a floating-point type."""
    leaves, form = trees.flatten(task)
    changed: Task = trees.unflatten(
        [leaf.to(dtype) if leaf.is_floating_point() else leaf for leaf in leaves], form
    )
    return changed


def one(many: Task, index: int) -> Task:
    """Take one task out of T."""
    leaves, form = trees.flatten(many)
    chosen: Task = trees.unflatten([leaf[index] for leaf in leaves], form)
    return chosen


def start(name: str, net: Net, device: str = "cpu", **values: Any) -> tuple[Any, Any, Tree, Tree]:
    """Return an algorithm, its settings, and float64 meta-parameters away from their symmetric start."""
    algorithm = algorithms.get(name)
    h = algorithms.hparams(name, values)
    meta, buffers = algorithm.init(net, h, seeds.generator("start"))
    generator = seeds.generator("jitter")

    def jitter(leaf: torch.Tensor) -> torch.Tensor:
        shift = (
            0.1
            * torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            * leaf.double().abs().mean()
        )
        return (leaf.double() + shift).to(device)

    return algorithm, h, trees.map(jitter, meta), trees.map(lambda leaf: leaf.double().to(device), buffers)


def largest_difference(left: Tree, right: Tree) -> float:
    """Return the largest absolute difference over all leaves."""
    pairs = zip(trees.items(left), trees.items(right), strict=True)
    return max(float((a - b).abs().max()) for (_, a), (_, b) in pairs)
