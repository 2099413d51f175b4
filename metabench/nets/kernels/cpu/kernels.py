"""Examples in blocks that fit a cache, and grouped, channels-last kernels over them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

BYTES = 3_200_000
"""Of a convolution's output in one block."""


def blocks(x: Tensor, n_channels: int) -> list[slice]:
    """Cut examples that become images of so many channels into as few parts as fit, alike in size."""
    bytes_of_one = n_channels * x[0, 0].numel() * x.element_size()
    n_parts = -(-len(x) // max(1, BYTES // bytes_of_one))
    ends = [len(x) * part // n_parts for part in range(n_parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


class Gathered:
    """What comes out of all blocks: images put one after another, and sums."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.whole: dict[str, Tensor] = {}

    def put(self, name: str, at: slice, images: Tensor) -> None:
        """Write the images of a block."""
        if len(images) == self.n:
            self.whole[name] = images
            return
        if name not in self.whole:
            self.whole[name] = image(images, self.n, *images.shape[1:])
        self.whole[name][at].copy_(images)

    def add(self, name: str, part: Tensor) -> None:
        """Add a block's part of a sum."""
        self.whole[name] = self.whole[name].add_(part) if name in self.whole else part

    def read(self, *names: str) -> tuple[Tensor | None, ...]:
        """Return what there is of these."""
        return tuple(self.whole.get(name) for name in names)


def image(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return memory for an image [n, C, H, W], channels last."""
    return torch.empty(
        shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last
    )


def wide(of_channels: Tensor) -> Tensor:
    """Return a vector of channels as an image of one pixel."""
    return of_channels.view(-1, 1, 1)


def channels_last(x: Tensor) -> Tensor:
    """Return an image or filters channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def convolve(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Convolve 3 x 3, zero-padded to the same size."""
    return F.conv2d(channels_last(x), weight, padding=1, groups=groups)


def flip(weight: Tensor, groups: int) -> Tensor:
    """Return the filters that take the gradient of a convolution's output to that of its input."""
    return (
        weight.unflatten(0, (groups, -1))
        .transpose(1, 2)
        .flatten(0, 1)
        .flip(2, 3)
        .contiguous(memory_format=torch.channels_last)
    )


def correlate(x: Tensor, g: Tensor, groups: int) -> Tensor:
    """Return the gradient of filters from images and the gradient of a convolution's output."""
    weight = x.new_empty(g.shape[1], x.shape[1] // groups, 3, 3)
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    return torch.ops.aten.convolution_backward(
        channels_last(g), channels_last(x), weight, None, *geometry, [False, True, False]
    )[1]
