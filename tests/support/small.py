"""A data set small enough that training on it takes a second."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metabench import algorithms, data
from metabench.core import Split, Splits, seeds
from metabench.core.config import NetworkConfig, RunConfig, TaskConfig
from metabench.training import calibration, diagnostics

TASK = TaskConfig(dataset="small", way=3, shot=1, query=2, test_query=3)

SINUSOIDS = TaskConfig(dataset="sinusoid", options={"functions": 500}, way=1, shot=5, query=5, test_query=10)


def look_at_little(patch: pytest.MonkeyPatch) -> None:
    """Let what is looked at closely after a training be few tasks."""
    patch.setattr(diagnostics, "TASKS", 6)
    patch.setattr(diagnostics, "FOLLOWED", 3)
    patch.setattr(calibration, "TASKS", 40)


def splits(size: int = 16, n_examples: int = 6) -> Splits:
    """Make three splits of six classes: a random image a class, with noise for each example."""
    parts = []
    for name in ("meta_train", "meta_validation", "meta_test"):
        generator = seeds.generator("small", name)
        prototypes = torch.rand(6, 1, 1, size, size, generator=generator)
        noise = torch.rand(6, n_examples, 1, size, size, generator=generator)
        images = ((0.6 * prototypes + 0.4 * noise) * 255).to(torch.uint8)
        parts.append(Split(images, tuple(f"{name}-{i}" for i in range(6)), ("small",) * 6))
    return Splits("small", *parts, fingerprint="0" * 64)


def config(
    algorithm: str = "maml", tasks: int = 24, rungs: tuple[int, ...] = (8, 16, 24), **values: Any
) -> RunConfig:
    """Describe a run of a few meta-steps."""
    return RunConfig(
        algorithm=algorithm,
        hyperparameters={"task_batch_size": 4, "inner_steps": 2, **values},
        task=TASK,
        network=NetworkConfig(width=4),
        tasks=tasks,
        rungs=list(rungs),
        validation_tasks=6,
        seed=0,
    )


def sinusoids() -> Splits:
    """Make the data set of a regression: a few hundred functions and their points."""
    return data.load(SINUSOIDS)


def regression(algorithm: str = "maml", tasks: int = 24, **values: Any) -> RunConfig:
    """Describe a run of a few meta-steps on sinusoids."""
    described = config(algorithm, tasks, (8, 16, tasks), **values)
    fields = {field.name for field in dataclasses.fields(algorithms.get(algorithm).hparams)}
    kept = {name: value for name, value in described.hyperparameters.items() if name in fields}
    network = NetworkConfig(name="mlp", width=16, norm="none")
    changes = {"task": SINUSOIDS, "network": network, "hyperparameters": kept, "validation_tasks": 50}
    return described.model_copy(update=changes)


FEATURES = TaskConfig(dataset="features", way=3, shot=2, query=2, test_query=3)


def features(size: int = 10, n_examples: int = 6) -> Splits:
    """Make three splits of six classes as rows of numbers of any size, far from [0, 1]."""
    parts = []
    for name in ("meta_train", "meta_validation", "meta_test"):
        generator = seeds.generator("features", name)
        means = 3 * torch.randn(6, 1, size, generator=generator) - 1
        rows = means + torch.randn(6, n_examples, size, generator=generator)
        parts.append(Split(rows, tuple(f"{name}-{i}" for i in range(6)), ("features",) * 6))
    return Splits("features", *parts, fingerprint="1" * 64)


def on_features(algorithm: str = "maml", tasks: int = 24, **values: Any) -> RunConfig:
    """Describe a run of a few meta-steps on features."""
    names = {field.name for field in dataclasses.fields(algorithms.get(algorithm).hparams)}
    described = config(algorithm, tasks, (8, 16, tasks), **values)
    kept = {name: value for name, value in described.hyperparameters.items() if name in names}
    network = NetworkConfig(name="mlp", width=8)
    return described.model_copy(update={"task": FEATURES, "network": network, "hyperparameters": kept})


def acting(algorithm: str = "maml", dataset: str = "navigation", tasks: int = 24, **values: Any) -> RunConfig:
    """Describe a run of a few meta-steps in environments of a few steps."""
    described = config(algorithm, tasks, (8, 16, tasks), **values)
    names = {field.name for field in dataclasses.fields(algorithms.get(algorithm).hparams)}
    task = TaskConfig(dataset=dataset, options=ENVIRONMENTS[dataset], way=1, shot=5, query=4, test_query=6)
    changes = {
        "task": task,
        "network": NetworkConfig(name="mlp", width=8, norm="none"),
        "hyperparameters": {
            name: value for name, value in described.hyperparameters.items() if name in names
        },
    }
    return described.model_copy(update=changes)


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "navigation": {"environments": 100, "horizon": 10},
    "navigation_sparse": {"environments": 100, "horizon": 10},
    "cartpole": {"environments": 100, "horizon": 10},
    "pendulum": {"environments": 100, "horizon": 10},
    "half_cheetah": {"environments": 100, "horizon": 10},
    "bandit": {"environments": 100},
    "tabular": {"environments": 100, "states": 4, "actions": 3, "horizon": 5},
}
"""Options of data sets of control by which they are small."""
