"""ResNet-12: four residual blocks of three convolutions, the mean over pixels, and a linear head."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from metabench.core import Net, Tree
from metabench.core.config import NetworkConfig
from metabench.nets import parts

BLOCKS, CONVOLUTIONS = 4, 3
SLOPE = 0.1


def resnet12(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build TADAM's ResNet-12 (arXiv 1805.10123) with MetaOptNet's leaky ReLU (arXiv 1904.03758).

    Widths double from block to block and the head sees the mean over pixels, as in TADAM; MetaOptNet widens
    to 10 times the first width and flattens. There is no DropBlock, and weights start as torch's own.
    """
    channels, height, width = parts.image_shape(network, shape, 2**BLOCKS)
    parts.check(network, n_pixels=4, foreign=("depth", "shrink"))
    widths = [network.width * 2**block for block in range(BLOCKS)]
    hidden = list(_hidden([channels, *widths]))
    embed, largest = partial(_embed, parts.norm_of(network)), network.width * height * width
    return parts.describe(network, hidden, embed, widths[-1], outputs, largest, CONVOLUTIONS + 1)


def _hidden(channels: list[int]) -> Iterator[parts.Layer]:
    for block in range(1, BLOCKS + 1):
        n_in, n_out = channels[block - 1 : block + 1]
        for layer in range(1, CONVOLUTIONS + 1):
            shape = (n_out, n_in if layer == 1 else n_out, 3, 3)
            yield parts.Layer(f"conv{block}_{layer}", f"norm{block}_{layer}", shape)
        yield parts.Layer(f"shortcut{block}", f"shortcut_norm{block}", (n_out, n_in, 1, 1))


def _embed(norm: parts.Norm, params: Tree, x: Tensor, moments: Tree | None = None) -> tuple[Tensor, Tree]:
    used: Tree = {}

    def layer(conv: str, name: str, x: Tensor) -> Tensor:
        weight = params[conv]["weight"]
        x = F.conv2d(x, weight, params[conv].get("bias"), padding=weight.shape[-1] // 2)
        x, seen = norm(params, name, x, moments)
        used.update(seen)
        return x

    for block in range(1, BLOCKS + 1):
        shortcut = layer(f"shortcut{block}", f"shortcut_norm{block}", x)
        for number in range(1, CONVOLUTIONS + 1):
            x = layer(f"conv{block}_{number}", f"norm{block}_{number}", x)
            x = F.leaky_relu(x if number < CONVOLUTIONS else x + shortcut, SLOPE)
        x = F.max_pool2d(x, 2)
    return x.mean((2, 3)), used
