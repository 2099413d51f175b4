"""The tests' Conv4 from torch's own layers, for laws that compare with torch's own optimisers."""

from __future__ import annotations

import torch
from torch import nn

from metabench.core import HEAD, Tree

TOLERANCE = 1e-8  # float64; differences seen are near 1e-14


def conv4(theta: Tree) -> nn.Sequential:
    """Build a batch-normalised Conv4 with our weights; its last layer is the head."""
    layers: list[nn.Module] = []
    for index in range(1, 5):
        width, channels = theta[f"conv{index}"]["weight"].shape[:2]
        conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)]
    outputs, features = theta[HEAD]["weight"].shape
    built = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, outputs)).double()
    load(built, theta)
    return built


def load(built: nn.Module, theta: Tree) -> None:
    """Put our weights into a module."""
    with torch.no_grad():
        for parameter, value in zip(built.parameters(), ordered(theta), strict=True):
            parameter.copy_(value)


def ordered(theta: Tree) -> list[torch.Tensor]:
    """List our tensors in the order of the module's parameters; the head may be missing."""
    layers = [*(f"{kind}{index}" for index in range(1, 5) for kind in ("conv", "norm")), HEAD]
    keys = ("weight", "scale", "bias", "shift")
    return [theta[layer][key] for layer in layers if layer in theta for key in keys if key in theta[layer]]


def values(built: nn.Module) -> list[torch.Tensor]:
    """Copy a module's parameters."""
    return [parameter.detach().clone() for parameter in built.parameters()]


def close(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Say whether matching tensors agree up to rounding."""
    return all(float((a - b).abs().max()) < TOLERANCE for a, b in zip(left, right, strict=True))
