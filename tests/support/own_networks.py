"""Torch modules as a user writes them: good ones, and some with a mistake each."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv4(channels: int = 1, width: int = 4, size: int = 16, norm: str = "batch") -> nn.Sequential:
    """Make the Conv4 of `metabench.nets` of torch's own layers; its head is layer 17."""
    layers: list[nn.Module] = []
    for n_inputs in (channels, width, width, width):
        normed = nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(2, width)
        layers += [
            nn.Conv2d(n_inputs, width, 3, padding=1, bias=False),
            normed,
            nn.ReLU(True),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size // 16) ** 2, 5))


def points(width: int = 8) -> nn.Sequential:
    """Make a perceptron for points, all of which embeds."""
    return nn.Sequential(nn.Linear(1, width), nn.BatchNorm1d(width), nn.ReLU())


def lazy() -> nn.Sequential:
    """Make a network whose layers take their sizes from the first images, with dropout."""
    return nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(6)
    )


class InOrder(nn.Module):
    """Sorts, in a way that ONNX does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.conv(x).mean((2, 3)).sort(dim=1, stable=True).values


class Shared(nn.Module):
    """Has parameters of its own, a layer called head that embeds, and a norm layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        x = self.norm(F.relu(self.norm(self.conv(x + self.shift))))
        return self.head(x.mean((2, 3)))


class Normalised(nn.Module):
    """Has the mean of its inputs in a buffer, which weights bring along."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        return self.conv(x - self.mean).mean((2, 3))


class _Layer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        kinds: dict[str, Any] = {
            "item": lambda: x * x.mean().item(),
            "branch": lambda: x if x.mean() > 0 else -x,
            "numpy": lambda: x + float(x.detach().numpy().mean()),
            "state": lambda: x + self.seen.add_(x.mean()),
            "random": lambda: x * torch.rand_like(x),
            "nan": lambda: x / 0 * 0,
            "tuple": lambda: (x, x),
            "whole": lambda: x.sum(),
        }
        return kinds[self.kind]()


def mistaken(kind: str) -> nn.Sequential:
    """Make a network whose layer 2 cannot be vectorised, or has another mistake."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), _Layer(kind), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Renormed(nn.BatchNorm2d):
    """A batch norm layer that does more than its class says."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise twice."""
        return super().forward(super().forward(x))


def renormed() -> nn.Sequential:
    """Make a network with a batch norm layer of its own kind."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), Renormed(4), nn.Flatten())


def untracked() -> nn.Sequential:
    """Make a network whose batch norm keeps no running moments."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())


def raising(width: int = 4) -> nn.Module:
    """Raise as soon as it is made."""
    raise RuntimeError(f"no network of width {width}")


def of_node(kind: str) -> nn.Module:
    """Make another network on a node whose cache is `there`, or none."""
    is_there = os.environ.get("METABENCH_CACHE", "").endswith("there")
    if is_there and kind == "absent":
        raise ImportError("no such library on this node")
    return conv4(width=8 if is_there and kind == "other" else 4)


def no_module() -> int:
    """Make what is no module."""
    return 3


MADE = nn.Linear(2, 2)
