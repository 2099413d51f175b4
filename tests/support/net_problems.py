"""Small networks of every kind with tasks for them, and MAML's meta-gradient by two routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from metabench import nets
from metabench.core import Net, Tree, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from tests.support import torch_networks

WAY, SHOT, QUERY, T = 3, 1, 2, 2
EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64: rounding of many thousand sums, far below any wrong term
NORMS = ("batch", "group", "none")
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "conv4 pool flatten": ({"name": "conv4"}, (2, 17, 35)),
    "conv4 pool mean": ({"name": "conv4", "readout": "mean"}, (2, 17, 35)),
    "conv4 stride flatten": ({"name": "conv4", "shrink": "stride"}, (2, 28, 17)),
    "conv4 stride mean": ({"name": "conv4", "shrink": "stride", "readout": "mean"}, (2, 28, 17)),
    "resnet12": ({"name": "resnet12"}, (2, 16, 19)),
    "cells": (
        {
            "name": "cells",
            "options": {
                "genotype": "avg_pool_3x3(0)+conv_1x5_5x1(1)|conv_3x3(0)+sep_conv_3x3(2)|"
                "dil_conv_3x3(1)+max_pool_3x3(3)>all*2/1"
            },
        },
        (2, 8, 9),
    ),
    "cells, the last node": (
        {
            "name": "cells",
            "readout": "mean",
            "options": {"genotype": "identity(0)+sep_conv_3x3(1)|avg_pool_3x3(2)+max_pool_3x3(1)>last*3/2"},
        },
        (2, 9, 8),
    ),
    "mlp of images": ({"name": "mlp", "width": 12, "depth": 3}, (2, 5, 4)),
    "mlp of points": ({"name": "mlp", "width": 12, "depth": 1}, (3,)),
}
EVERY = pytest.mark.parametrize(
    ("case", "norm"), [(case, norm) for case in CASES for norm in NORMS], ids=lambda value: value
)


def config_of(case: str, norm: str, **values: Any) -> tuple[NetworkConfig, tuple[int, ...]]:
    """Describe a small network and the shape of its inputs; points are regressed."""
    settings, shape = CASES[case]
    return NetworkConfig(**{"width": 4, "norm": norm, "groups": 2, **settings, **values}), shape


def problem(
    case: str = "conv4 pool flatten", norm: str = "batch", shape: tuple[int, ...] | None = None, **values: Any
) -> tuple[Net, Tree, tuple[Tensor, ...]]:
    """Build a network, parameters away from their symmetric start, and tasks [T, ...] for it."""
    config, usual = config_of(case, norm, **values)
    shape = shape or usual
    kind = "classification" if len(shape) == 3 else "regression"
    net = nets.build(config, WAY, shape, OBJECTIVES[kind])
    generator = seeds.generator("test_nets", norm)
    params = trees.map(lambda leaf: leaf.double(), net.init(generator))
    for name in net.norms:  # both signs: pooling takes another way where a scale is negative
        n = len(params[name]["scale"])
        params[name]["scale"] = torch.tensor([1.2, -0.7, 0.4, -1.5], dtype=torch.float64).repeat(n // 4)
        params[name]["shift"] = torch.randn(n, generator=generator, dtype=torch.float64) / 2
    n_examples, n_support = WAY * (SHOT + QUERY), WAY * SHOT
    x = torch.rand(T, n_examples, *shape, generator=generator, dtype=torch.float64)
    y = torch.arange(WAY).repeat(SHOT + QUERY).expand(T, -1)
    if kind == "regression":
        y = torch.randn(T, n_examples, WAY, generator=generator, dtype=torch.float64)
    return net, params, (x[:, :n_support], y[:, :n_support], x[:, n_support:], y[:, n_support:])


def maml_loss(
    apply: Callable[..., Any], uses_moments: bool, order: int, loss: Callable[..., Tensor] = F.cross_entropy
) -> Callable[..., Tensor]:
    """Return MAML's loss of one task, by torch.func; apply is (params, x, moments) -> (outputs, moments)."""

    def support_loss(phi: Tree, x: Tensor, y: Tensor) -> Tensor:
        return loss(apply(phi, x)[0], y)

    def task_loss(theta: Tree, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        phi = theta
        for _ in range(2):
            gradient = grad(support_loss)(phi, sx, sy)
            if order == 1:
                gradient = trees.map(lambda leaf: leaf.detach(), gradient)
            phi = trees.map(lambda p, g: p - 0.3 * g, phi, gradient)
        moments = apply(phi, sx)[1] if uses_moments else None
        return loss(apply(phi, qx, moments)[0], qy)

    return task_loss


def autograd_meta_gradient(
    apply: Callable[..., Any],
    uses_moments: bool,
    order: int,
    loss: Callable[..., Tensor],
    theta: Tree,
    *task: Tensor,
) -> Tree:
    """Differentiate MAML's loss of one task by torch.autograd alone."""
    theta = trees.map(lambda leaf: leaf.clone().requires_grad_(), theta)
    sx, sy, qx, qy = task
    phi = theta
    for _ in range(2):
        support_loss = loss(apply(phi, sx)[0], sy)
        gradient = torch.autograd.grad(support_loss, trees.leaves(phi), create_graph=order == 2)
        phi = trees.map(lambda p, g: p - 0.3 * g, phi, like(theta, gradient))
    moments = apply(phi, sx)[1] if uses_moments else None
    query_loss = loss(apply(phi, qx, moments)[0], qy)
    return like(theta, torch.autograd.grad(query_loss, trees.leaves(theta)))


def like(tree: Tree, leaves: Iterable[Tensor]) -> Tree:
    remaining = iter(leaves)
    return trees.map(lambda _: next(remaining), tree)


def assert_same(left: Tree, right: Tree, **tolerance: float) -> None:
    for (name, a), b in zip(trees.items(left), trees.leaves(right), strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def theirs(case: str, norm: str, shape: tuple[int, ...] | None = None) -> Callable[..., Any]:
    """Return the same network of torch's own modules, with our signature."""
    config, usual = config_of(case, norm)
    apply = torch_networks.build(config, shape or usual, WAY)
    return lambda params, x, moments=None: (apply(params, x), {})
