"""Cells of convolutions and pools, one after the other, as a search of architectures writes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metabench.core import MetabenchError, Net, Tree
from metabench.core.config import NetworkConfig
from metabench.core.config.genotype import ALL, INPUTS, Edge, Genotype, read
from metabench.nets import parts
from metabench.nets.conv4 import BLOCKS, READOUTS, conv4

CONV4 = Genotype(((Edge("conv_3x3", 1),),), ALL, BLOCKS, BLOCKS)
"""What spells conv4."""


class Convolution(NamedTuple):
    """One convolution of an operation, of stride 1, that leaves an image as large as it is."""

    size: tuple[int, int]
    dilation: int = 1
    is_depthwise: bool = False  # each channel by itself


CONVOLUTIONS: Mapping[str, tuple[Convolution, ...]] = {
    "conv_3x3": (Convolution((3, 3)),),
    "conv_1x5_5x1": (Convolution((1, 5)), Convolution((5, 1))),
    "sep_conv_3x3": (Convolution((3, 3), is_depthwise=True), Convolution((1, 1))),
    "dil_conv_3x3": (Convolution((3, 3), dilation=2),),
}
FIT = (Convolution((1, 1)),)
"""What gives a state as many channels as the cells have, after an operation without weights."""

POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "max_pool_3x3": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "avg_pool_3x3": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "identity": lambda x: x,
}


class Operation(NamedTuple):
    """An edge with the layers that it has in one cell."""

    edge: Edge
    norm: str  # of the last of its convolutions
    convolutions: tuple[tuple[parts.Layer, Convolution], ...]


def cells(network: NetworkConfig, outputs: int, shape: tuple[int, ...]) -> Net:
    """Build Auto-Meta's space of cells (arXiv 1806.06927): a node adds up two operations on earlier states.

    A convolution is followed by its norm and ReLU, as in conv4, and takes a state of any number of channels;
    other operations are followed by one of 1 x 1 where channels would not fit. Cells that spell conv4 are it.
    """
    genotype = read(network.options)
    plain = network.model_copy(update={"options": {}})
    if genotype == CONV4 and network.shrink == "pool":
        return conv4(plain, outputs, shape)
    channels, height, width = parts.image_shape(network, shape, 1)
    most = int(math.log2(min(height, width)))
    if genotype.reductions > most:
        raise MetabenchError(
            f"network.options.reductions={genotype.reductions}: images of {height} x {width} pixels can be "
            f"halved {most} times; lower it"
        )
    n_pixels = (height >> genotype.reductions) * (width >> genotype.reductions)
    parts.check(plain, n_pixels, foreign=("depth", "shrink"))
    joined = network.width * (len(genotype.nodes) if genotype.output == ALL else 1)
    built = [
        _operations(genotype, number, network.width, before)
        for number, before in enumerate(_inputs(channels, joined, genotype.layers), 1)
    ]
    made = [[layer for node in cell for one in node for layer, _ in one.convolutions] for cell in built]
    hidden = [layer for layers in made for layer in layers]
    features = joined * (1 if network.readout == "mean" else n_pixels)
    embed = partial(_embed, genotype, built, parts.norm_of(network), READOUTS[network.readout])
    n_last = next((len(layers) for layers in reversed(made) if layers), 0)
    return parts.describe(network, hidden, embed, features, outputs, joined * height * width, max(1, n_last))


def _inputs(channels: int, joined: int, n_layers: int) -> list[tuple[int, int]]:
    """List the channels of states 0 and 1 of each cell."""
    made = [channels, channels, *[joined] * n_layers]
    return [(made[k], made[k + 1]) for k in range(n_layers)]


def _operations(
    genotype: Genotype, number: int, width: int, before: tuple[int, int]
) -> list[list[Operation]]:
    """Name the layers of a cell, node by node."""
    channels = [*before, *[width] * len(genotype.nodes)]
    return [
        [
            _operation(f"{number}_{state}_{k}", edge, channels[edge.state], width)
            for k, edge in enumerate(node, 1)
        ]
        for state, node in enumerate(genotype.nodes, INPUTS)
    ]


def _operation(name: str, edge: Edge, channels: int, width: int) -> Operation:
    wanted = CONVOLUTIONS.get(edge.operation, FIT if channels != width else ())
    layers = []
    for k, one in enumerate(wanted, 1):
        n_out = channels if one.is_depthwise else width
        shape = (n_out, 1 if one.is_depthwise else channels, *one.size)
        is_last = k == len(wanted)
        layers.append((parts.Layer(f"conv{name}_{k}", f"norm{name}" if is_last else None, shape), one))
        channels = n_out
    return Operation(edge, f"norm{name}", tuple(layers))


def _embed(
    genotype: Genotype,
    built: list[list[list[Operation]]],
    norm: parts.Norm,
    readout: Callable[[Tensor], Tensor],
    params: Tree,
    x: Tensor,
    moments: Tree | None = None,
) -> tuple[Tensor, Tree]:
    used: Tree = {}
    before, last = x, x
    for number, cell in enumerate(built, 1):
        if before.shape[-2:] != last.shape[-2:]:
            before = F.max_pool2d(before, 2)
        states = [before, last]
        for node in cell:
            added = [_apply(norm, params, one, states[one.edge.state], moments, used) for one in node]
            states.append(added[0] if len(added) == 1 else added[0] + added[1])
        x = torch.cat(states[INPUTS:], 1) if genotype.output == ALL else states[-1]
        before, last = last, F.max_pool2d(x, 2) if number <= genotype.reductions else x
    return readout(last), used


def _apply(
    norm: parts.Norm, params: Tree, one: Operation, x: Tensor, moments: Tree | None, used: Tree
) -> Tensor:
    if one.edge.operation in POOLS:
        x = POOLS[one.edge.operation](x)
    if not one.convolutions:
        return x
    for layer, conv in one.convolutions:
        weight = params[layer.name]["weight"]
        x = F.conv2d(x, weight, params[layer.name].get("bias"), **_how(conv, len(weight)))
    x, seen = norm(params, one.norm, x, moments)
    used.update(seen)
    return F.relu(x)


def _how(conv: Convolution, n_out: int) -> dict[str, Any]:
    padding = tuple(conv.dilation * (side // 2) for side in conv.size)
    return {
        "padding": padding,
        "dilation": conv.dilation,
        "groups": n_out if conv.is_depthwise else 1,
    }
