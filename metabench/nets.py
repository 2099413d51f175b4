"""Networks as pure functions over nested dicts of tensors, written for one task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench import layers
from metabench.config import NetworkConfig, nearest
from metabench.core import HEAD, MetabenchError, Net, Objective, Tree
from metabench.objectives import OBJECTIVES

EPSILON = 1e-5
BLOCKS = 4


def build(
    network: NetworkConfig,
    outputs: int,
    shape: tuple[int, ...],
    objective: Objective = OBJECTIVES["classification"],
    n_classes: int = 0,
) -> Net:
    """Build the network that a config names.

    Args:
        outputs: ways, or the numbers to predict.
        shape: of one input: images `[C, H, W]`, or points `[D]`.
        n_classes: of meta-train, for what is pre-trained on all of them.
    """
    if network.name not in NETWORKS:
        raise MetabenchError(
            f"network.name={network.name!r}: unknown network.{nearest(network.name, NETWORKS)} "
            f"Allowed: {', '.join(NETWORKS)}"
        )
    return NETWORKS[network.name](network, outputs, shape)._replace(objective=objective, n_classes=n_classes)


def head(params: Tree, features: Tensor) -> Tensor:
    """Apply a network's last layer to features [n, F]: [n, O]."""
    return F.linear(features, params["weight"], params["bias"])


def apply(net: Net, params: Tree, x: Tensor, moments: Tree = None) -> tuple[Tensor, Tree]:
    """Return a whole network's outputs [n, O] and the batch norm moments that were used."""
    features, used = net.embed(params, x, moments)
    return head(params[HEAD], features), used


def conv4(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build four blocks of convolution, normalisation, ReLU and max pooling, and a linear head."""
    channels, height, width = shape
    if min(height, width) < 2**BLOCKS:
        raise MetabenchError(
            f"images of {height} x {width} pixels: conv4 halves an image {BLOCKS} times and needs at least "
            f"{2**BLOCKS} x {2**BLOCKS}; choose a larger image size"
        )
    inputs = [channels, *[network.width] * (BLOCKS - 1)]
    features = network.width * (height >> BLOCKS) * (width >> BLOCKS)
    norms = {f"norm{i + 1}": network.width for i in range(BLOCKS)} if network.norm == "batch" else {}
    return Net(
        init=partial(_init_conv4, inputs, network.width, features, outputs, bool(norms)),
        embed=_embed_conv4,
        features=features,
        outputs=outputs,
        objective=OBJECTIVES["classification"],
        batch_norm=network.batch_norm,
        norm_channels=norms,
        norms=tuple(norms),
        n_classes=0,
    )


NETWORKS: Mapping[str, Callable[[NetworkConfig, int, tuple[int, ...]], Net]] = {"conv4": conv4}


def _init_conv4(
    inputs: list[int], width: int, features: int, outputs: int, has_norm: bool, generator: Generator
) -> Tree:
    params: Tree = {}
    for block, channels in enumerate(inputs, 1):
        fan_in = channels * 9
        params[f"conv{block}"] = {"weight": _uniform((width, channels, 3, 3), fan_in, generator)}
        if has_norm:
            params[f"norm{block}"] = {"scale": torch.ones(width), "shift": torch.zeros(width)}
        else:
            params[f"conv{block}"]["bias"] = _uniform((width,), fan_in, generator)
    params[HEAD] = init_head(outputs, features, generator)
    return params


def init_head(outputs: int, features: int, generator: Generator) -> Tree:
    """Draw a last layer as torch's own starts."""
    weight = _uniform((outputs, features), features, generator)
    return {"weight": weight, "bias": _uniform((outputs,), features, generator)}


def _uniform(shape: tuple[int, ...], fan_in: int, generator: Generator) -> Tensor:
    # What torch's own layers start from: Kaiming uniform with a = sqrt(5).
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)


def _embed_conv4(params: Tree, x: Tensor, moments: Tree | None = None) -> tuple[Tensor, Tree]:
    used: Tree = {}
    for block in range(1, BLOCKS + 1):
        conv, norm = params[f"conv{block}"], f"norm{block}"
        if norm in params:
            given = None if moments is None else moments[norm]
            x, used[norm] = _normalised_block(conv["weight"], params[norm], x, given)
        else:
            pooled, _, _ = layers.conv_pool(
                x, conv["weight"], torch.ones_like(conv["bias"]), has_moments=False
            )
            x = F.relu(pooled + conv["bias"].view(-1, 1, 1))
    return x.flatten(1), used


def _normalised_block(weight: Tensor, norm: Tree, x: Tensor, given: Tree | None) -> tuple[Tensor, Tree]:
    # Pooling before scale, shift and ReLU leaves them a quarter of the pixels.
    # Never torch's affine batch norm: its second-order gradients are wrong under vmap.
    pooled, mean, var = layers.conv_pool(x, weight, norm["scale"], has_moments=given is None)
    used = {"mean": mean, "var": var} if given is None else given
    factor = norm["scale"] * torch.rsqrt(used["var"] + EPSILON)
    offset = norm["shift"] - used["mean"] * factor
    return F.relu(pooled * factor.view(-1, 1, 1) + offset.view(-1, 1, 1)), used
