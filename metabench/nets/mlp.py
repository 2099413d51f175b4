"""A multi-layer perceptron for points and for images, whose pixels it takes as one long point."""

from __future__ import annotations

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from metabench.core import Net, Tree
from metabench.core.config import NetworkConfig
from metabench.nets import parts


def mlp(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build hidden layers of normalisation and ReLU, and a linear head.

    Width 40, depth 2 and no norm is the MAML paper's sinusoid network (arXiv 1703.03400, sec. 5.1), but for
    its truncated normal start: weights start as torch's own.
    """
    parts.check(network, n_pixels=1, foreign=("shrink", "readout"))
    inputs = [math.prod(shape), *[network.width] * (network.depth - 1)]
    hidden = [
        parts.Layer(f"linear{layer}", f"norm{layer}", (network.width, n)) for layer, n in enumerate(inputs, 1)
    ]
    embed = partial(parts.embed, partial(block, parts.norm_of(network)), network.depth, lambda x: x)
    return parts.describe(network, hidden, embed, network.width, outputs, network.width)


def block(
    norm: parts.Norm, params: Tree, number: int, x: Tensor, moments: Tree | None
) -> tuple[Tensor, Tree]:
    """Apply one hidden layer, its norm and ReLU."""
    linear = params[f"linear{number}"]
    x = F.linear(x.flatten(1), linear["weight"], linear.get("bias"))
    x, used = norm(params, f"norm{number}", x, moments)
    return F.relu(x), used
