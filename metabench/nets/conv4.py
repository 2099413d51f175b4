"""Conv4: four blocks of 3 x 3 convolution, normalisation and ReLU that halve an image, and a linear head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from metabench.core import Net, Tree
from metabench.core.config import NetworkConfig
from metabench.nets import layers, parts

BLOCKS = 4

HALVE: Mapping[str, Callable[[int], int]] = {
    "pool": lambda side: side // 2,
    "stride": lambda side: -(-side // 2),
}
"""What becomes of a side of an image."""


def conv4(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build the MAML paper's network for images (arXiv 1703.03400, sec. 5.2).

    Its mini-ImageNet network pools and flattens; its Omniglot network has stride 2 and a mean over pixels.
    Stride 2 pads all four borders by one pixel, where TensorFlow's SAME pads even sizes on two sides only.
    """
    smallest = 2**BLOCKS if network.shrink == "pool" else 1
    channels, height, width = parts.image_shape(network, shape, smallest)
    halve = HALVE[network.shrink]
    whole = height * width if network.shrink == "pool" else halve(height) * halve(width)
    for _ in range(BLOCKS):
        height, width = halve(height), halve(width)
    n_pixels = height * width
    parts.check(network, n_pixels * (4 if network.shrink == "pool" else 1), foreign=("depth",))
    features = network.width * (1 if network.readout == "mean" else n_pixels)
    inputs = [channels, *[network.width] * (BLOCKS - 1)]
    hidden = [
        parts.Layer(f"conv{block}", f"norm{block}", (network.width, n, 3, 3))
        for block, n in enumerate(inputs, 1)
    ]
    embed = partial(parts.embed, _block_of(network), BLOCKS, READOUTS[network.readout])
    return parts.describe(network, hidden, embed, features, outputs, network.width * whole)


READOUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "mean": lambda x: x.mean((2, 3)),
}


def _block_of(network: NetworkConfig) -> parts.Block:
    norm = parts.norm_of(network)
    if network.shrink == "stride":
        return partial(_block, norm, 2)
    return {"batch": _pooled_batch_norm, "none": _pooled_bias}.get(network.norm, partial(_block, norm, 1))


def _pooled_batch_norm(params: Tree, number: int, x: Tensor, moments: Tree | None) -> tuple[Tensor, Tree]:
    # Pooling before scale, shift and ReLU leaves them a quarter of the pixels.
    name = f"norm{number}"
    weight, norm = params[f"conv{number}"]["weight"], params[name]
    of_support = None if moments is None else moments[name]
    x, used = layers.conv_pool(x, weight, norm["scale"], has_moments=of_support is None)
    if of_support is not None:
        used = torch.stack([of_support["mean"], of_support["var"]], 1)
    mean, var = used.unbind(1)
    return layers.normalise_and_rectify(x, norm, used), {name: {"mean": mean, "var": var}}


def _pooled_bias(params: Tree, number: int, x: Tensor, moments: Tree | None) -> tuple[Tensor, Tree]:
    conv = params[f"conv{number}"]
    x, _ = layers.conv_pool(x, conv["weight"], torch.ones_like(conv["bias"]), has_moments=False)
    return F.relu(x + conv["bias"].view(-1, 1, 1)), {}


def _block(
    norm: parts.Norm, stride: int, params: Tree, number: int, x: Tensor, moments: Tree | None
) -> tuple[Tensor, Tree]:
    conv = params[f"conv{number}"]
    x = F.conv2d(x, conv["weight"], conv.get("bias"), stride=stride, padding=1)
    x, used = norm(params, f"norm{number}", x, moments)
    return F.relu(F.max_pool2d(x, 2) if stride == 1 else x), used
