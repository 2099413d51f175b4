"""Networks as pure functions over nested dicts of tensors, written for one task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.config import NetworkConfig, nearest
from metabench.core import MetabenchError, Net, Tree

EPSILON = 1e-5
BLOCKS = 4


def build(network: NetworkConfig, way: int, image_shape: tuple[int, int, int]) -> Net:
    """Build the network that a config names, for images of `[C, H, W]` in `way` classes."""
    if network.name not in NETWORKS:
        raise MetabenchError(
            f"network.name={network.name!r}: unknown network.{nearest(network.name, NETWORKS)} "
            f"Allowed: {', '.join(NETWORKS)}"
        )
    return NETWORKS[network.name](network, way, image_shape)


def conv4(network: NetworkConfig, way: int, image_shape: tuple[int, int, int]) -> Net:
    """Build four blocks of convolution, normalisation, ReLU and max pooling, and a linear head."""
    channels, height, width = image_shape
    if min(height, width) < 2**BLOCKS:
        raise MetabenchError(
            f"images of {height} x {width} pixels: conv4 halves an image {BLOCKS} times and needs at least "
            f"{2**BLOCKS} x {2**BLOCKS}; choose a larger image size"
        )
    inputs = [channels, *[network.width] * (BLOCKS - 1)]
    features = network.width * (height >> BLOCKS) * (width >> BLOCKS)
    norms = {f"norm{i + 1}": network.width for i in range(BLOCKS)} if network.norm == "batch" else {}
    return Net(
        init=partial(_init_conv4, inputs, network.width, features, way, bool(norms)),
        apply=_apply_conv4,
        batch_norm=network.batch_norm,
        norm_channels=norms,
    )


NETWORKS: Mapping[str, Callable[[NetworkConfig, int, tuple[int, int, int]], Net]] = {"conv4": conv4}


def _init_conv4(
    inputs: list[int], width: int, features: int, way: int, has_norm: bool, generator: Generator
) -> Tree:
    params: Tree = {}
    for block, channels in enumerate(inputs, 1):
        fan_in = channels * 9
        params[f"conv{block}"] = {"weight": _uniform((width, channels, 3, 3), fan_in, generator)}
        if has_norm:
            params[f"norm{block}"] = {"scale": torch.ones(width), "shift": torch.zeros(width)}
        else:
            params[f"conv{block}"]["bias"] = _uniform((width,), fan_in, generator)
    weight = _uniform((way, features), features, generator)
    params["head"] = {"weight": weight, "bias": _uniform((way,), features, generator)}
    return params


def _uniform(shape: tuple[int, ...], fan_in: int, generator: Generator) -> Tensor:
    # What torch's own layers start from: Kaiming uniform with a = sqrt(5).
    return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan_in)


def _apply_conv4(params: Tree, x: Tensor, moments: Tree | None = None) -> tuple[Tensor, Tree]:
    used: Tree = {}
    for block in range(1, BLOCKS + 1):
        conv, norm = params[f"conv{block}"], f"norm{block}"
        x = F.conv2d(x, conv["weight"], conv.get("bias"), padding=1)
        if norm in params:
            given = None if moments is None else moments[norm]
            x, used[norm] = batch_norm(x, params[norm]["scale"], params[norm]["shift"], given)
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), params["head"]["weight"], params["head"]["bias"]), used


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor, moments: Tree | None) -> tuple[Tensor, Tree]:
    """Normalise each channel by the moments given, or by the batch's own, then scale and shift."""
    # Never torch's affine batch norm: its second-order gradients are wrong under vmap.
    if moments is None:
        var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        moments = {"mean": mean, "var": var}
    factor = scale * torch.rsqrt(moments["var"] + EPSILON)
    offset = shift - moments["mean"] * factor
    return x * factor[:, None, None] + offset[:, None, None], moments
