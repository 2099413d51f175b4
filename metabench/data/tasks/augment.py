"""Random changes of meta-train images: each image distorted on its own, or whole classes turned.

Every image has parameters of its own, from a named generator, and is changed where it lies. (torchvision's
transforms draw from the global generator, and once for a whole batch.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metabench.core import Task, device
from metabench.core.config import AugmentConfig

HALVES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "support": ("support",),
    "query": ("query",),
    "both": ("support", "query"),
}
"""The setting `augment` to the halves of a task whose images are distorted."""

OFF = {"augment": "none", "turn_classes": False, "support_copies": 0}


def problem(h: Any, kind: str, shape: tuple[int, ...], config: AugmentConfig) -> str | None:
    """Say why settings cannot augment inputs of a kind and shape, or return None."""
    asked = [f"{name}={getattr(h, name)!r}" for name, off in OFF.items() if getattr(h, name, off) != off]
    if asked and len(shape) != 3:
        others = "features" if kind == "classification" else kind
        return f"{asked[0]}: only images can be augmented; leave it out for {others}"
    if getattr(h, "augment", "none") != "none" and config.lights and shape[0] not in (1, 3):
        return (
            f"contrast={config.contrast:g} and brightness={config.brightness:g}: inputs have {shape[0]} "
            "channels, and light is of pictures, which have 1 or 3; leave both out"
        )
    if getattr(h, "turn_classes", False) and shape[-1] != shape[-2]:
        size = f"{shape[-2]} x {shape[-1]}"
        return f"turn_classes=True: images of {size} pixels cannot be turned; make them square"
    return None


def tasks(drawn: Task, h: Any, config: AugmentConfig, generator: Generator) -> Task:
    """Augment T tasks as an algorithm's settings say; those without such settings leave them as they are."""
    if getattr(h, "turn_classes", False):
        drawn = turn_classes(drawn, generator)
    support, query = drawn.support, drawn.query
    halves = HALVES[getattr(h, "augment", "none")]
    if "support" in halves:
        support = support._replace(x=distort(support.x, config, generator))
    if "query" in halves:
        query = query._replace(x=distort(query.x, config, generator))
    return drawn._replace(support=support, query=query)


def turn_classes(drawn: Task, generator: Generator) -> Task:
    """Turn each class of a task, support and query alike, by a random multiple of 90 degrees of its own."""
    turns = torch.randint(4, tuple(drawn.classes.shape), generator=generator)
    turns = device.to_device_async(turns, drawn.classes.device)

    def turned(half: Any) -> Any:
        times = turns.gather(1, half.y)[:, :, None, None, None]  # [T, n, 1, 1, 1]
        x = half.x
        for quarters in (1, 2, 3):
            x = torch.where(times == quarters, half.x.rot90(quarters, (-2, -1)), x)
        return half._replace(x=x)

    return drawn._replace(support=turned(drawn.support), query=turned(drawn.query))


def distort(x: Tensor, config: AugmentConfig, generator: Generator) -> Tensor:
    """Distort each image of [..., C, H, W], values in [0, 1], by parameters of its own."""
    images = x.flatten(0, -4)
    moves, light = parameters(len(images), config, generator)
    if config.moves:
        images = warp(images, moves.to(x.dtype), config.padding)
    if config.lights:
        gain, lift = device.to_device_async(light.to(x.dtype), x.device)[:, :, None, None, None].unbind(1)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = ((images - mean) * gain + mean * lift).clamp(0, 1)
    return images.view_as(x)


def parameters(n: int, config: AugmentConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw n affine maps [n, 2, 3] from places in an image to places in the distorted one, and n lights.

    Places are in halves of a side, x before y, from the middle. A light is the factor of an image's contrast
    and that of its mean: [n, 2].
    """

    def within(limit: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle = within(math.radians(config.rotate))
    slant = within(config.shear)
    scale_x, scale_y = within(config.scale).exp(), within(config.scale).exp()
    shift = 2 * torch.stack([within(config.shift), within(config.shift)], 1)
    side = torch.where(torch.rand(n, generator=generator) < 0.5 * config.flip, -1.0, 1.0)
    light = torch.stack([within(config.contrast).exp(), within(config.brightness).exp()], 1)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(n)
    rotation = torch.stack([cos, -sin, sin, cos], 1).view(n, 2, 2)
    shape = torch.stack([scale_x * side, slant * scale_y, zero, scale_y], 1).view(n, 2, 2)
    return torch.cat([rotation @ shape, shift[:, :, None]], 2), light


def warp(images: Tensor, moves: Tensor, padding: str) -> Tensor:
    """Move the pixels of images [n, C, H, W] by the maps of `parameters`, interpolating between pixels."""
    height, width = images.shape[-2:]
    # Halves of a side are not one length where an image is not square, but a rotation needs that.
    sides = moves.new_tensor([width, height])
    linear = moves[:, :, :2] * (sides / sides.max())[None, None, :] / (sides / sides.max())[None, :, None]
    # grid_sample asks where a pixel comes from: p = A^-1 (p' - t)
    back = torch.linalg.inv_ex(linear)[0]  # asks for no errors: a scale and a rotation have an inverse
    origin = -back @ moves[:, :, 2:]
    theta = device.to_device_async(torch.cat([back, origin], 2), images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)
