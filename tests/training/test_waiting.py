"""No step waits for a value of a device, or brings one from elsewhere: a capture would end there.

Tensors on torch's `meta` device have shapes but no values, so that reading one is an error.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from metabench import algorithms
from metabench.core import Task, Tree, trees
from metabench.data.tasks import sampling
from metabench.training import loop, vectorise
from tests.algorithms import problems
from tests.support import small

TRAINED = [name for name in algorithms.names("classification") if algorithms.get(name).is_trained]


WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten._linalg_check_errors", "aten.is_nonzero")
"""Operations that wait for the device, on whatever device they run."""


class Elsewhere(TorchDispatchMode):
    """Collects operations: all, those that touch a tensor of some size elsewhere, and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.all: set[str] = set()
        self.elsewhere: Counter[str] = Counter()
        self.n_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.n_operations += 1
        self.all.add(str(func))
        touched = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        is_moved = "copy" in str(func) and len({leaf.device.type for leaf in touched}) > 1
        if is_moved or any(leaf.device.type != "meta" and leaf.ndim for leaf in touched):
            self.elsewhere[str(func)] += 1
        return out

    @property
    def waited(self) -> set[str]:
        """Return the operations that wait for a device."""
        return {name for name in self.all if name.startswith(WAITING)}


def on_meta(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, tree)


def prepared(name: str, **values: Any) -> tuple[loop.Learner, loop.State, Any, Any]:
    """Return a learner, its state and a source of tasks, all on the meta device."""
    splits = small.splits()
    fields = algorithms.get(name).hparams.__dataclass_fields__
    config = small.config(name)
    chosen = {key: value for key, value in {**config.hyperparameters, **values}.items() if key in fields}
    config = config.model_copy(update={"hyperparameters": chosen})
    learner = loop.build(config, splits)
    state = loop.start(config, learner, "meta")
    moved = splits.meta_train._replace(images=splits.meta_train.images.to("meta"))
    return learner, state, config, sampling.pool(moved, config.task)


@pytest.mark.parametrize("name", TRAINED)
def test_no_meta_step_waits_for_the_device(name: str) -> None:
    values = {"augment": "both", "turn_classes": True, "outer_clip": 1.0, "cosine": True}
    learner, state, config, source = prepared(name, **values)
    with Elsewhere() as seen:
        after, logs = loop.meta_step(config, learner, source, state, 4)
    assert not seen.waited
    assert {leaf.device.type for leaf in trees.leaves(after.meta)} == {"meta"}
    assert after.tasks_seen == 4
    assert "loss" in logs


@pytest.mark.parametrize("name", TRAINED)
def test_a_meta_gradient_stays_on_the_device(name: str) -> None:
    learner, state, _, _ = prepared(name)
    tasks = on_meta(problems.cast(problems.tasks(), torch.float32))
    with Elsewhere() as seen:
        vectorise.meta_gradient(loop.model(learner, state), tasks, 0.5)
    # The row of settings and progress is brought once, before any operation that a capture takes in.
    assert seen.elsewhere <= Counter({"aten.lift_fresh.default": 1, "aten._to_copy.default": 1})
    assert seen.n_operations > 100
    if name == "maml":
        assert "metabench.step_grad_grad.default" in seen.all


@pytest.mark.parametrize("name", algorithms.names("classification"))
def test_adapting_and_predicting_stays_on_the_device(name: str) -> None:
    learner, state, _, _ = prepared(name)
    tasks = on_meta(problems.cast(problems.tasks(), torch.float32))

    def outputs(task: Task, meta: Tree, buffers: Tree) -> Tensor:
        adapted = learner.algorithm.adapt(learner.net, meta, buffers, task.support, learner.h)
        return learner.algorithm.predict(learner.net, adapted, task.query.x)

    with Elsewhere() as seen:
        predictions = vectorise.per_task(outputs, tasks, state.meta, state.buffers)
    assert not seen.elsewhere
    assert not seen.waited
    assert predictions.device.type == "meta"


def test_what_waits_is_seen() -> None:
    matrices, index = torch.rand(2, 3, 3), torch.arange(3)
    with Elsewhere() as seen:
        float(matrices.sum())
        torch.linalg.inv(matrices)
        index.to("meta") + torch.empty(3, device="meta")
    assert seen.waited == {"aten._local_scalar_dense.default", "aten._linalg_check_errors.default"}
    with Elsewhere() as scalar:
        torch.tensor(2.0).to("meta")
    assert set(scalar.elsewhere) == {"aten._to_copy.default"}
    assert "aten._to_copy.default" in seen.elsewhere
