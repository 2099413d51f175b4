"""What the steps of `operators` take and leave, whatever device computes them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

EPSILON = 1e-5
"""Added to a variance."""

Tensors = tuple[Tensor | None, ...]
"""Gradients, None where they are not asked for."""


class Saved(NamedTuple):
    """What a step leaves for its gradient."""

    x: Tensor
    weight: Tensor
    y: Tensor  # the convolution's output; empty where it is not needed, or computed again
    moments: Tensor  # [C, 2]: mean and biased variance of y
    where: Tensor  # each pooled pixel's place
    groups: int  # of channels
    needs_x: bool  # whether the gradient of x is asked for


class Gradients(NamedTuple):
    """What comes back from all that a step returns."""

    y: Tensor | None
    pooled: Tensor | None
    moments: Tensor | None


class Rectified(NamedTuple):
    """What normalisation and ReLU leave for their gradient."""

    images: Tensor
    x: Tensor
    scale: Tensor
    moments: Tensor  # [C, 2]: mean and biased variance that x was normalised by


class Passed(NamedTuple):
    """What a gradient through normalisation and ReLU leaves for its own."""

    g: Tensor
    of_scale: Tensor
    of_shift: Tensor
