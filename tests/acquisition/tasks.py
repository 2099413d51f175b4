"""Models and tasks to ask for labels in, small enough for a second, and views of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metabench import acquisition, algorithms
from metabench.acquisition import Acquisition, View, learning
from metabench.acquisition.config import LabelConfig, task_of
from metabench.acquisition.functions import learned
from metabench.core import Splits, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.data.tasks import frozen
from metabench.training import loop
from metabench.training.vectorise import Model
from tests.support import small

GROUP = NetworkConfig(width=4, norm="group", groups=2)
"""A network whose features depend on nothing but the picture."""

CONFIG = LabelConfig(pool=4, distractors=2, rounds=3, tasks=6, query=3)


def untrained(name: str, splits: Splits, network: NetworkConfig = GROUP, **values: Any) -> Model:
    """Build a learner as it starts."""
    fields = {field for field in ("inner_steps", "inner_lr") if field in vars(algorithms.hparams(name, {}))}
    steps = {"inner_steps": 2} if "inner_steps" in fields else {}
    config = small.config(name).model_copy(
        update={"hyperparameters": {**steps, **values}, "network": network}
    )
    learner = loop.build(config, splits)
    return loop.model(learner, loop.start(config, learner))


def drawn(splits: Splits, config: LabelConfig) -> frozen.FrozenTasks:
    """Draw the tasks that a configuration asks for."""
    task = task_of(config, small.TASK, splits.meta_test, "small")
    return frozen.frozen(splits, "meta_test", task, config.tasks, "test")


def rule(name: str, n_ways: int = 3, dtype: torch.dtype | None = None) -> Acquisition:
    """Look an acquisition up; one that is learnt as it starts."""
    about = acquisition.get(name)
    if about.learns is None:
        return about
    weights = learned.init(n_ways, seeds.generator("untrained"))
    return learning.bound(about, {key: leaf.to(dtype) for key, leaf in trees.items(weights)}, CONFIG)


def view(n_pool: int = 12, n_seen: int = 4, n_ways: int = 3, width: int = 5, seed: int = 0) -> View:
    """Draw what an acquisition sees of one task, in float64; a fourth of the pool is taken."""
    generator = seeds.generator("view", seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, c = normal(n_pool, width), normal(n_ways, width)
    p = normal(n_pool, n_ways).softmax(-1)
    taken = torch.arange(n_pool) % 4 == 1
    seen_y = torch.arange(n_seen) % n_ways
    return View(x, p, taken, normal(n_seen, width), seen_y, c, torch.tensor(0.7, dtype=torch.float64))


def noise(b: int, n_pool: int, seed: int = 0) -> Tensor:
    """Draw what acquisitions draw by."""
    return torch.rand(b, n_pool, generator=seeds.generator("noise", seed), dtype=torch.float64).clamp(1e-7)
