"""A backbone of somebody: small, with a classifying layer to take out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

WIDTH, SIDE = 6, 12


def make() -> nn.Module:
    """Make the network, whose batch norm has running moments of its own."""
    layers = {
        "conv": nn.Conv2d(3, WIDTH, 3, stride=2),
        "norm": nn.BatchNorm2d(WIDTH),
        "relu": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(2),
        "flat": nn.Flatten(),
        "fc": nn.Linear(4 * WIDTH, 10),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def weights(path: Path, seed: int = 0) -> Path:
    """Write weights and running moments as drawn by a seed."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.rand(value.shape, generator=generator) + 0.1 if value.is_floating_point() else value
        for name, value in make().state_dict().items()
    }
    state["conv.weight"] -= 0.6  # so that some units are off
    save_file(state, path)
    return path


def network(path: Path, **values: Any) -> dict[str, Any]:
    """Describe it as frozen."""
    described = {"module": "tests.support.backbone:make", "head": "fc", "weights": str(path), "freeze": "all"}
    return {**described, "image_size": SIDE, "normalise": "imagenet", **values}


def photographs(root: Path, n_classes: int = 9, n_pictures: int = 12, side: int = 20) -> Path:
    """Paint noise around a colour and a stripe of each class."""
    rng = np.random.default_rng(0)
    for one in range(n_classes):
        base = rng.integers(40, 215, 3)
        for number in range(n_pictures):
            pixels = base + rng.normal(0, 25, (side, side, 3))
            pixels[one % side] += 40
            path = root / f"class{one}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return root
