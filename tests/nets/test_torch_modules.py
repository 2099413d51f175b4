"""A torch module of a user's is a network like ours: the same gradients, in every mode of batch norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metabench import nets
from metabench.core import Net, Tree, trees
from metabench.core.config import NetworkConfig
from metabench.training import vectorise
from tests.algorithms import problems
from tests.algorithms.test_conformance import Start, is_near, looped, meta_gradient

PLACE = "tests.support.own_networks"
SHAPE = (1, problems.SIZE, problems.SIZE)


def of(made: str, **values: Any) -> Net:
    config = NetworkConfig(**{"module": f"{PLACE}:{made}", **values})
    return nets.build(config, problems.WAY, SHAPE, n_classes=problems.CLASSES)


def as_theirs(tree: Tree) -> Tree:
    """Rename our Conv4's parameters, wherever they stand in a tree, as torch's Sequential has them."""
    names = {
        f"{kind}{block}": str(4 * block - 4 + at)
        for block in (1, 2, 3, 4)
        for at, kind in enumerate(("conv", "norm"))
    }
    if not isinstance(tree, dict):
        return tree
    leaves = {"scale": "weight", "shift": "bias"}
    return {names.get(key, leaves.get(key, key)): as_theirs(value) for key, value in tree.items()}


@pytest.mark.parametrize("batch_norm", ["support_stats", "with_support", "transductive"])
@pytest.mark.parametrize("name", ["maml", "protonet", "r2d2"])
def test_a_users_conv4_has_the_meta_gradient_of_ours(name: str, batch_norm: str) -> None:
    ours, theirs = problems.network(batch_norm), of("conv4", head="17", batch_norm=batch_norm)
    tasks = problems.tasks(2)
    steps = {"inner_steps": 2} if name == "maml" else {}
    algorithm, h, meta, buffers = problems.start(name, ours, **steps)
    gradient, *_ = meta_gradient(Start(algorithm, ours, h, meta, buffers, tasks), 2)
    started = Start(algorithm, theirs, h, as_theirs(meta), buffers, tasks)
    of_theirs, loss, *_ = meta_gradient(started, 2)
    assert problems.largest_difference(of_theirs, as_theirs(gradient)) < 1e-6
    by_loop, loop_loss, _ = looped(started)
    assert is_near(loss, loop_loss)
    assert all(is_near(a, b) for a, b in zip(trees.leaves(of_theirs), by_loop, strict=True))

    def outputs(net: Net, meta: Tree, task: Any) -> torch.Tensor:
        return algorithm.predict(net, algorithm.adapt(net, meta, buffers, task.support, h), task.query.x)

    both = [
        vectorise.per_task(lambda task, net=net, meta=meta: outputs(net, meta, task), tasks)
        for net, meta in ((ours, meta), (theirs, started.meta))
    ]
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-6)
