"""Convolution, batch moments and max pooling as one step: fast on a CPU, torch's own layers elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from metabench import fused
except (ImportError, AttributeError):  # it is built on parts of torch that a release may move
    fused = None  # type: ignore[assignment]


def conv_pool(x: Tensor, weight: Tensor, scale: Tensor, has_moments: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve 3 x 3, zero-padded to the same size, and keep one of each 2 x 2 pixels.

    Args:
        scale: each channel's; where it is negative the smallest pixel is kept, else the largest, so that
            scaling and pooling may change places. No gradient flows through it.

    Returns:
        The pooled image, and the mean and biased variance of each channel before pooling (zeros without
        `has_moments`).
    """
    if fused is not None and x.device.type == "cpu":
        _, pooled, mean, var, _ = torch.ops.metabench.step(x, weight, scale.detach(), 1, has_moments)
        return pooled, mean, var
    return plain_conv_pool(x, weight, scale, has_moments)


def plain_conv_pool(
    x: Tensor, weight: Tensor, scale: Tensor, has_moments: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same with torch's own layers, on any device."""
    y = F.conv2d(x, weight, padding=1)
    none = y.new_zeros(y.shape[1])
    var, mean = torch.var_mean(y, (0, 2, 3), correction=0) if has_moments else (none, none)
    sign = torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)[:, None, None]
    return F.max_pool2d(y * sign, 2) * sign, mean, var
