"""What the fused steps of `fused` take and leave, whatever device computes them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to a variance."""


class Saved(NamedTuple):
    """What a step leaves for its gradient."""

    x: Tensor
    weight: Tensor
    y: Tensor  # the convolution's output; empty where it is not needed, or computed again
    mean: Tensor  # of y, of each channel
    where: Tensor  # each pooled pixel's place in its plane


class Gradients(NamedTuple):
    """What comes back from all that a step returns."""

    y: Tensor | None
    pooled: Tensor | None
    mean: Tensor | None
    var: Tensor | None


class Norm(NamedTuple):
    """Scale and shift of each channel, and the moments that it is normalised by."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    var: Tensor

    def line(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return 1 / sqrt(var), and factor and shift of what normalises, scales and shifts."""
        root = torch.rsqrt(self.var + EPSILON)
        factor = self.scale * root
        return root, factor, self.shift - self.mean * factor
