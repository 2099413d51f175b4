"""Norm layers, and convolution, batch moments and max pooling as one fast step."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from metabench.core import Tree
from metabench.nets.kernels.types import EPSILON

try:
    from metabench.nets.kernels import operators

    _MISSING = None
except (ImportError, AttributeError) as error:  # it is built on parts of torch that a release may move
    _MISSING = f"this torch has moved what they are built on: {error}"

PLAIN_TAKES = 1.7
"""Times as long as the kernels: torch's own layers, by benchmarks/layers.py on a CPU."""

_plain: set[str] = set()
"""Types of device on which torch's own layers are used whatever kernels there are."""


def has_kernels(device: torch.device) -> bool:
    """Say whether kernels serve a device; a warning says once why not, and what that costs."""
    return device.type not in _plain and _has_usable(device)


@functools.cache
def _has_usable(device: torch.device) -> bool:
    why = _MISSING or operators.failure(device)
    if why is not None:
        refuse_kernels(device, why)
    return why is None


def refuse_kernels(device: torch.device, why: str) -> None:
    """Use torch's own layers on such devices from now on, and say so."""
    _plain.add(device.type)
    logging.getLogger(__name__).warning(
        "kernels for %s are not used, but torch's own layers, which took %s times as long on a CPU: %s",
        device,
        PLAIN_TAKES,
        why,
    )


@contextlib.contextmanager
def plain(device: torch.device) -> Iterator[None]:
    """Use torch's own layers on such devices within, to compare with."""
    before = set(_plain)
    _plain.add(device.type)
    try:
        yield
    finally:
        _plain.intersection_update(before)


def batch_moments(x: Tensor) -> Tree:
    """Return the mean and biased variance of each channel of [n, C, ...]."""
    axes = [axis for axis in range(x.ndim) if axis != 1]
    mean = x.mean(axes, keepdim=True)
    return {"mean": mean.flatten(), "var": (x - mean).square().mean(axes)}


def normalise(x: Tensor, norm: Tree, moments: Tree, epsilon: float = EPSILON) -> Tensor:
    """Normalise each channel of [n, C, ...] by given moments, then scale and shift it."""
    # Never torch's affine batch norm: its second-order gradients are wrong under vmap.
    factor = norm["scale"] * torch.rsqrt(moments["var"] + epsilon)
    return _affine(x, factor, norm["shift"] - moments["mean"] * factor)


def normalise_and_rectify(x: Tensor, norm: Tree, moments: Tensor) -> Tensor:
    """Do so to images [n, C, H, W] by moments [C, 2], and let no pixel be negative."""
    if has_kernels(x.device):
        return torch.ops.metabench.rectify(x, norm["scale"], norm["shift"], moments, 1)
    mean, var = moments.unbind(1)
    return F.relu(normalise(x, norm, {"mean": mean, "var": var}))


def group_norm(x: Tensor, norm: Tree, groups: int) -> Tensor:
    """Normalise each group of channels of each example of [n, C, ...], then scale and shift each channel."""
    rows = x.unflatten(1, (groups, -1)).flatten(2)
    centred = rows - rows.mean(2, keepdim=True)
    normalised = centred * torch.rsqrt(centred.square().mean(2, keepdim=True) + EPSILON)
    return _affine(normalised.reshape(x.shape), norm["scale"], norm["shift"])


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    return x * scale.view(shape) + shift.view(shape)


def conv_pool(x: Tensor, weight: Tensor, scale: Tensor, has_moments: bool) -> tuple[Tensor, Tensor]:
    """Convolve 3 x 3, zero-padded to the same size, and keep one of each 2 x 2 pixels.

    Args:
        scale: each channel's; where it is negative the smallest pixel is kept, else the largest, so that
            scaling and pooling may change places. No gradient flows through it.

    Returns:
        The pooled image, and the mean and biased variance of each channel before pooling, [C, 2] (zeros
        without `has_moments`).
    """
    if has_kernels(x.device):
        _, pooled, moments, _ = torch.ops.metabench.step(x, weight, scale.detach(), 1, has_moments, False)
        return pooled, moments
    return plain_conv_pool(x, weight, scale, has_moments)


def plain_conv_pool(x: Tensor, weight: Tensor, scale: Tensor, has_moments: bool) -> tuple[Tensor, Tensor]:
    """Do the same with torch's own layers, on any device."""
    y = F.conv2d(x, weight, padding=1)
    none = y.new_zeros(y.shape[1])
    var, mean = torch.var_mean(y, (0, 2, 3), correction=0) if has_moments else (none, none)
    sign = torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)[:, None, None]
    return F.max_pool2d(y * sign, 2) * sign, torch.stack([mean, var], 1)
