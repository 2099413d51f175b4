"""The networks of torch's own modules, with the layer names of ours: what ours must equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metabench.core import Tree, trees
from metabench.core.config import NetworkConfig

NAMES = {"scale": "weight", "shift": "bias"}


class Network(nn.Module):
    """Layers by name, and the norm of a config."""

    def __init__(self, config: NetworkConfig, n_axes: int, tracks: bool) -> None:
        super().__init__()
        self.config, self.n_axes, self.tracks = config, n_axes, tracks
        self.has_bias = config.norm == "none"

    def norm(self, width: int) -> nn.Module:
        if self.config.norm == "group":
            return nn.GroupNorm(self.config.groups, width)
        batch_norm = nn.BatchNorm2d if self.n_axes == 3 else nn.BatchNorm1d
        built = batch_norm(width, track_running_stats=self.tracks)
        return built if self.config.norm == "batch" else nn.Identity()

    def at(self, name: str, x: Tensor) -> Tensor:
        return self.get_submodule(name)(x)


class Conv4(Network):
    def __init__(
        self, config: NetworkConfig, shape: tuple[int, ...], outputs: int, tracks: bool = False
    ) -> None:
        super().__init__(config, len(shape), tracks)
        stride = {"pool": 1, "stride": 2}[config.shrink]
        for block, n in enumerate((shape[0], *[config.width] * 3), 1):
            conv = nn.Conv2d(n, config.width, 3, stride=stride, padding=1, bias=self.has_bias)
            self.add_module(f"conv{block}", conv)
            self.add_module(f"norm{block}", self.norm(config.width))
        self.pool = {"pool": nn.MaxPool2d(2), "stride": nn.Identity()}[config.shrink]
        mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.readout = {"flatten": nn.Flatten(), "mean": mean}[config.readout]
        features = self.body(torch.zeros(2, *shape)).shape[1]
        self.head = nn.Linear(features, outputs)

    def body(self, x: Tensor) -> Tensor:
        for block in "1234":
            x = self.pool(torch.relu(self.at(f"norm{block}", self.at(f"conv{block}", x))))
        return self.readout(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class ResNet12(Network):
    def __init__(
        self, config: NetworkConfig, shape: tuple[int, ...], outputs: int, tracks: bool = False
    ) -> None:
        super().__init__(config, len(shape), tracks)
        n_in = shape[0]
        for block in range(1, 5):
            n_out = config.width * (1, 2, 4, 8)[block - 1]
            for layer in range(1, 4):
                conv = nn.Conv2d(n_in if layer == 1 else n_out, n_out, 3, padding=1, bias=self.has_bias)
                self.add_module(f"conv{block}_{layer}", conv)
                self.add_module(f"norm{block}_{layer}", self.norm(n_out))
            self.add_module(f"shortcut{block}", nn.Conv2d(n_in, n_out, 1, bias=self.has_bias))
            self.add_module(f"shortcut_norm{block}", self.norm(n_out))
            n_in = n_out
        self.act, self.pool = nn.LeakyReLU(0.1), nn.MaxPool2d(2)
        self.head = nn.Linear(n_in, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for block in "1234":
            y = x
            for layer in "12":
                y = self.act(self.at(f"norm{block}_{layer}", self.at(f"conv{block}_{layer}", y)))
            y = self.at(f"norm{block}_3", self.at(f"conv{block}_3", y))
            x = self.pool(self.act(y + self.at(f"shortcut_norm{block}", self.at(f"shortcut{block}", x))))
        return self.head(nn.AdaptiveAvgPool2d(1)(x).flatten(1))


class MLP(Network):
    def __init__(
        self, config: NetworkConfig, shape: tuple[int, ...], outputs: int, tracks: bool = False
    ) -> None:
        super().__init__(config, 1, tracks)
        for layer, n in enumerate((math.prod(shape), *[config.width] * (config.depth - 1)), 1):
            self.add_module(f"linear{layer}", nn.Linear(n, config.width, bias=self.has_bias))
            self.add_module(f"norm{layer}", self.norm(config.width))
        self.head = nn.Linear(config.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in range(1, self.config.depth + 1):
            x = torch.relu(self.at(f"norm{layer}", self.at(f"linear{layer}", x)))
        return self.head(x)


class Cells(Network):
    """Cells, read from a genotype by hand; state 0 is what came before last, 1 what came last."""

    SIZES: ClassVar = {
        "conv_3x3": [(3, 3)], "conv_1x5_5x1": [(1, 5), (5, 1)], "sep_conv_3x3": [(3, 3), (1, 1)],
        "dil_conv_3x3": [(3, 3)],
    }  # fmt: skip

    def __init__(
        self, config: NetworkConfig, shape: tuple[int, ...], outputs: int, tracks: bool = False
    ) -> None:
        super().__init__(config, len(shape), tracks)
        nodes, how = str(config.options["genotype"]).split(">")
        self.output, numbers = how.split("*")
        self.n_cells, self.n_halved = map(int, numbers.split("/"))
        split = [[edge.strip(")").split("(") for edge in node.split("+")] for node in nodes.split("|")]
        self.nodes = [[(name, int(state)) for name, state in node] for node in split]
        width, joined = config.width, config.width * (len(split) if self.output == "all" else 1)
        for cell in range(1, self.n_cells + 1):
            first = {1: [shape[0]] * 2, 2: [shape[0], joined]}.get(cell, [joined] * 2)
            for state, node in enumerate(self.nodes, 2):
                for k, (name, source) in enumerate(node, 1):
                    self.layers(f"{cell}_{state}_{k}", name, [*first, *[width] * 9][source])
        self.head = nn.Linear(self.body(torch.zeros(2, *shape)).shape[1], outputs)

    def layers(self, place: str, name: str, n_in: int) -> None:
        width = self.config.width
        sizes = self.SIZES.get(name, [(1, 1)] if n_in != width else [])
        for k, size in enumerate(sizes, 1):
            is_last, is_apart = k == len(sizes), name == "sep_conv_3x3" and k == 1
            conv = nn.Conv2d(
                n_in, n_in if is_apart else width, size, padding="same", groups=n_in if is_apart else 1,
                dilation=2 if name == "dil_conv_3x3" else 1, bias=self.has_bias and is_last,
            )  # fmt: skip
            self.add_module(f"conv{place}_{k}", conv)
            n_in = n_in if is_apart else width
        if sizes:
            self.add_module(f"norm{place}", self.norm(width))

    def edge(self, place: str, name: str, x: Tensor) -> Tensor:
        if name == "max_pool_3x3":
            x = nn.MaxPool2d(3, 1, 1)(x)
        elif name == "avg_pool_3x3":
            x = nn.AvgPool2d(3, 1, 1, count_include_pad=False)(x)
        convolutions = [f"conv{place}_{k}" for k in (1, 2) if hasattr(self, f"conv{place}_{k}")]
        for one in convolutions:
            x = self.at(one, x)
        return torch.relu(self.at(f"norm{place}", x)) if convolutions else x

    def body(self, x: Tensor) -> Tensor:
        states = [x, x]
        for cell in range(1, self.n_cells + 1):
            outer = states[-1]
            if states[0].shape[-1] > outer.shape[-1]:
                states[0] = nn.MaxPool2d(2)(states[0])
            for state, node in enumerate(self.nodes, 2):
                edges = [
                    self.edge(f"{cell}_{state}_{k}", name, states[source])
                    for k, (name, source) in enumerate(node, 1)
                ]
                states.append(sum(edges))
            x = torch.cat(states[2:], 1) if self.output == "all" else states[-1]
            states = [outer, nn.MaxPool2d(2)(x) if cell <= self.n_halved else x]
        return states[1].mean((2, 3)) if self.config.readout == "mean" else states[1].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


CLASSES: dict[str, Callable[..., Network]] = {
    "conv4": Conv4,
    "resnet12": ResNet12,
    "mlp": MLP,
    "cells": Cells,
}


def build(config: NetworkConfig, shape: tuple[int, ...], outputs: int) -> Callable[[Tree, Tensor], Tensor]:
    """Return a network of torch's modules as a function of our parameters: (params, x) -> outputs."""
    module = CLASSES[config.name](config, shape, outputs).double()
    return lambda params, x: functional_call(module, renamed(params), x, strict=True)


def with_moments(
    config: NetworkConfig, shape: tuple[int, ...], outputs: int, params: Tree, moments: Tree
) -> nn.Module:
    """Build a network that normalises by given moments, as torch's batch norm does in evaluation."""
    module = CLASSES[config.name](config, shape, outputs, tracks=True).double().eval()
    running = {
        f"{name}.running_{key}": value for name, both in moments.items() for key, value in both.items()
    }
    counts = {key: value for key, value in module.state_dict().items() if key.endswith("tracked")}
    module.load_state_dict({**renamed(params), **running, **counts})
    return module


def renamed(params: Tree) -> dict[str, Tensor]:
    """Give our parameters torch's names."""
    parts = [(name.split("."), leaf) for name, leaf in trees.items(params)]
    return {f"{layer}.{NAMES.get(key, key)}": leaf for (layer, key), leaf in parts}
