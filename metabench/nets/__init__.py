"""Networks as pure functions over nested dicts of tensors, written for one task; one file a network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.core import HEAD, MetabenchError, Net, Objective, Tree, plugins, seeds
from metabench.core.config import NetworkConfig, nearest
from metabench.core.objectives import OBJECTIVES
from metabench.nets import backbones, torch_modules
from metabench.nets.cells import cells
from metabench.nets.conv4 import conv4
from metabench.nets.frozen import frozen
from metabench.nets.mlp import mlp
from metabench.nets.parts import init_head
from metabench.nets.resnet12 import resnet12
from metabench.nets.weights import anchored

__all__ = [
    "NETWORKS",
    "anchored",
    "apply",
    "build",
    "check",
    "digest",
    "head",
    "init_head",
    "is_all_learnt",
    "outputs",
    "with_deviation",
]

LOG_STD = "log_std"
"""The entry of a policy's last layer that is the logarithm of its actions' deviation."""

NETWORKS: Mapping[str, Callable[[NetworkConfig, int, tuple[int, ...]], Net]] = {
    "conv4": conv4,
    "resnet12": resnet12,
    "mlp": mlp,
    "cells": cells,
}


def build(
    network: NetworkConfig,
    n_outputs: int,
    shape: tuple[int, ...],
    objective: Objective = OBJECTIVES["classification"],
    n_classes: int = 0,
) -> Net:
    """Build the network that a config names.

    Args:
        n_outputs: the most ways, or the numbers to predict.
        shape: of one input: images `[C, H, W]`, or points `[D]`.
        n_classes: of meta-train, for what is pre-trained on all of them.
    """
    make: Callable[..., Net]
    origin: Hashable = None
    if network.freeze == "all":
        make = frozen
    elif network.is_module:
        make, origin = torch_modules.build, torch_modules.origin(network)
    else:
        make = origin = _maker(network.name)
    built_of = network.model_dump_json(), origin, n_outputs, shape, n_classes
    net = make(network, n_outputs, shape)
    return net._replace(objective=objective, n_classes=n_classes, built_of=built_of)


def check(network: NetworkConfig, shape: tuple[int, ...]) -> None:
    """Refuse a network before its inputs are known; what a torch module makes of them, `build` looks at.

    Args:
        shape: such as inputs of that kind of data have.
    """
    if not network.is_module:
        build(network, 1, shape)
        return
    if network.freeze == "all":  # its weights are opened, as the data are, by who needs features
        frozen(network, 1, (1,))
        return
    torch_modules.refuse_ours(network)
    backbones.make(network, seeds.generator("check"))


def digest(network: NetworkConfig) -> str:
    """Hash how a torch module is made and the weights that it starts from; of our own networks nothing."""
    return torch_modules.digest(network) if network.is_module else ""


def is_all_learnt(network: NetworkConfig) -> bool:
    """Tell whether what is learnt of a network is all that the weights which it starts from decide."""
    return not network.is_module or torch_modules.is_all_learnt(network)


def _maker(name: str) -> Callable[[NetworkConfig, int, tuple[int, ...]], Net]:
    """Look a network up, among those that installed packages add, too."""
    names = [*NETWORKS, *(one for one in plugins.plugins("network") if one not in NETWORKS)]
    if name not in names:
        raise MetabenchError(
            f"network.name={name!r}: unknown network.{nearest(name, names)} Allowed: {', '.join(names)}, "
            "torchvision/NAME and timm/NAME, or give `module`"
        )
    if problem := plugins.clash("network", name, name in NETWORKS):
        raise MetabenchError(problem)
    return NETWORKS[name] if name in NETWORKS else plugins.load("network", name, callable, "a function")


def head(params: Tree, features: Tensor) -> Tensor:
    """Apply a network's last layer to features [n, F]: [n, O]."""
    return F.linear(features, params["weight"], params["bias"])


def outputs(net: Net, params: Tree, features: Tensor) -> Tensor:
    """Apply a task's last layer to features [n, F]: [n, N], without what is there for tasks of more ways.

    A policy of continuous actions has the logarithms of its deviations beside them: [n, 2N].
    """
    linear = head(params, features)[:, : net.way]
    if LOG_STD not in params:
        return linear
    return torch.cat([linear, params[LOG_STD].expand_as(linear)], -1)


def with_deviation(net: Net, log_std: float) -> Net:
    """Give a network's last layer a deviation for each output, which no input changes."""

    def init(generator: Generator) -> Tree:
        params = net.init(generator)
        bias = params[HEAD]["bias"]
        return {**params, HEAD: {**params[HEAD], LOG_STD: torch.full_like(bias, log_std)}}

    return net._replace(init=init)


def apply(net: Net, params: Tree, x: Tensor, moments: Tree = None) -> tuple[Tensor, Tree]:
    """Return a whole network's outputs [n, N] and the batch norm moments that were used."""
    features, used = net.embed(params, x, moments)
    return outputs(net, params[HEAD], features), used
