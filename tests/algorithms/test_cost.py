"""A task costs the forward passes that docs/algorithms.md says, by torch's own count of operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metabench import algorithms, nets
from metabench.core import Task, seeds
from metabench.core.config import NetworkConfig
from metabench.data.tasks import frozen, sampling
from metabench.training import cost, vectorise
from tests.support import small

S, Q, WAY = 2, 3, 3

COSTS: dict[str, Callable[[int], float]] = {
    "maml": lambda k: 9 * k * S + 3 * Q,
    "fomaml": lambda k: 3 * k * S + 3 * Q,
    "anil": lambda k: 3 * S + 3 * Q,
    "boil": lambda k: 9 * k * S + 3 * Q,
    "meta_sgd": lambda k: 9 * k * S + 3 * Q,
    "maml_pp": lambda k: 9 * k * S + 3 * Q,
    "alpha_maml": lambda k: 9 * k * S + 3 * Q,
    "proto_maml": lambda k: 9 * k * S + 3 * S + 3 * Q,
    "imaml": lambda k: 3 * k * S + 3 * S + 6 * 5 * S + 3 * Q,  # five steps solve
    "reptile": lambda k: 3 * k * (S + Q) + Q,  # mini-batches of everything here
    "protonet": lambda k: 3 * S + 3 * Q,
    "r2d2": lambda k: 3 * S + 3 * Q,
    "matching": lambda k: 3 * S + 3 * Q,
    "finetune": lambda k: 3 * S + 3 * Q,
    "baseline_pp": lambda k: 3 * S + 3 * Q,
}

NET = nets.build(NetworkConfig(name="mlp", width=32, depth=16, norm="none"), WAY, (1, 4, 4), n_classes=6)
"""Deep, so that the first layer, whose input needs no gradient, and the head hardly count."""


def draw() -> Task:
    split, shape = small.splits(size=4).meta_train, sampling.Shape(WAY, S, Q)
    drawn = sampling.sample(seeds.generator("cost"), sampling.pool(split, small.TASK), shape, 1)
    return frozen.gather(split.images, drawn, shape)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("k", [1, 3])
def test_a_task_costs_what_is_documented(name: str, k: int) -> None:
    algorithm, tasks = algorithms.get(name), draw()
    fields = {field.name for field in dataclasses.fields(algorithm.hparams)}
    values = {"inner_steps": k} if "inner_steps" in fields else {}
    h = algorithms.hparams(name, values | ({"inner_batch": 0} if "inner_batch" in fields else {}))
    meta, buffers = algorithm.init(NET, h, seeds.generator("cost"))
    with FlopCounterMode(display=False) as counted:
        vectorise.meta_gradient(vectorise.Model(algorithm, NET, meta, buffers, h), tasks, 0.9, 1)
    with FlopCounterMode(display=False) as one:
        nets.apply(NET, NET.init(seeds.generator("cost")), tasks.query.x[0, :WAY])
    passes = counted.get_total_flops() / one.get_total_flops()  # over one example of each class
    assert passes == pytest.approx(COSTS[name](k), rel=0.08)


def test_the_multiply_adds_of_a_picture_are_those_of_its_convolutions_and_the_head() -> None:
    net = nets.build(NetworkConfig(width=4), 5, (1, 28, 28))
    params, picture = net.init(seeds.generator("cost")), torch.zeros(1, 1, 28, 28)
    convolutions = 9 * 4 * (28 * 28 * 1 + 14 * 14 * 4 + 7 * 7 * 4 + 3 * 3 * 4)
    counted = cost.multiply_adds(lambda: nets.apply(net, params, picture)[0], torch.device("cpu"))
    assert counted == convolutions + 5 * 4
