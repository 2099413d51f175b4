"""A head on features of a frozen backbone: centred, of unit length, and hidden layers if asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.core import Net, Tree
from metabench.core.config import NetworkConfig
from metabench.core.config.network import OF_OURS
from metabench.nets import mlp, parts

INPUT = "input"
"""The layer that moves features to the middle and scales them, before they are made of unit length."""


def frozen(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build what learns on features [D] of a frozen backbone, and a linear head.

    Args:
        shape: of one input [D]; of pictures, where the settings alone are to be checked.
    """
    n_features = shape[-1]
    inputs = [n_features, *[network.width] * max(0, network.hidden - 1)]
    hidden = [
        parts.Layer(f"linear{layer}", f"norm{layer}", (network.width, n))
        for layer, n in enumerate(inputs[: network.hidden], 1)
    ]
    ours = NetworkConfig(**{key: getattr(network, key) for key in (*OF_OURS, "batch_norm")})
    parts.check(ours, n_pixels=1, foreign=("shrink", "readout", "depth"))
    embed = partial(parts.embed, partial(mlp.block, parts.norm_of(network)), network.hidden, lambda x: x)
    features = network.width if hidden else n_features
    net = parts.describe(network, hidden, partial(_embed, embed), features, outputs, n_features)
    return centred(net._replace(norms=(INPUT, *net.norms)), torch.zeros(n_features))


def centred(net: Net, mean: Tensor) -> Net:
    """Let a network of features start from their mean."""
    return net._replace(init=partial(_init, net.init, mean))


def _init(rest: Callable[[Generator], Tree], mean: Tensor, generator: Generator) -> Tree:
    return {**rest(generator), INPUT: {"scale": torch.ones_like(mean), "shift": -mean}}


def _embed(
    rest: Callable[..., tuple[Tensor, Tree]], params: Tree, x: Tensor, moments: Tree = None
) -> tuple[Tensor, Tree]:
    # SimpleShot's CL2N (arXiv 1911.04623, sec. 3) where scale is 1 and shift is minus the mean
    x = F.normalize((x + params[INPUT]["shift"]) * params[INPUT]["scale"], dim=-1)
    return rest(params, x, moments)
