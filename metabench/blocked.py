"""The arithmetic of `fused` on plain tensors: grouped, channels-last kernels over blocks that fit a cache.

Some examples pass through a whole step before the next ones start: memory is several times slower than a
core's own cache. Images are [n, G * C, H, W] for G groups of channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BYTES = 3_200_000
"""Of a convolution's output in one block."""

FEW = 4
"""Channels of which a convolution is computed again sooner than its output is kept."""


class Saved(NamedTuple):
    """What a step leaves for its gradient."""

    x: Tensor
    weight: Tensor
    y: Tensor  # the convolution's output; empty where it is not needed, or computed again
    where: Tensor  # each pooled pixel's place in its plane


class Gradients(NamedTuple):
    """What comes back from all that a step returns."""

    y: Tensor | None
    pooled: Tensor | None
    slope: Tensor | None  # with offset, those of mean and var, as the line `slope * y + offset` that
    offset: Tensor | None  # they add to that of y


def blocks(x: Tensor, n_channels: int) -> list[slice]:
    """Cut the examples into as few parts as fit, none larger than another by more than one.

    Args:
        n_channels: of what each image becomes.
    """
    bytes_of_one = n_channels * x[0, 0].numel() * x.element_size()
    n_parts = -(-len(x) // max(1, BYTES // bytes_of_one))
    ends = [len(x) * part // n_parts for part in range(n_parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


class Found:
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
            self.whole[name] = _image(images, self.n, *images.shape[1:])
        self.whole[name][at].copy_(images)

    def add(self, name: str, part: Tensor) -> None:
        """Add a block's part of a sum."""
        self.whole[name] = self.whole[name].add_(part) if name in self.whole else part

    def read(self, *names: str) -> tuple[Tensor | None, ...]:
        """Return what there is of these."""
        return tuple(self.whole.get(name) for name in names)


def step(
    x: Tensor, weight: Tensor, scale: Tensor, groups: int, has_moments: bool, keep: bool
) -> tuple[Tensor, ...]:
    """Convolve, take each channel's moments, and keep of each 2 x 2 pixels the largest.

    Args:
        scale: of each channel; where it is negative the smallest pixel is kept.
        keep: whether a gradient will be taken.

    Returns:
        y, the pooled image, each channel's mean and biased variance (zeros without `has_moments`), and where;
        see `Saved`.
    """
    weight = _channels_last(weight)  # as a convolution wants it, once for all blocks
    n, n_channels, height, width = len(x), len(weight), *x.shape[2:]
    pooled = _image(x, n, n_channels, height // 2, width // 2)
    where = torch.empty_like(pooled, dtype=torch.int64)
    sign = _sign(scale) if bool((scale < 0).any()) else None
    found, seen = Found(n), []
    for at in blocks(x, len(weight)):
        y = convolve(x[at], weight, groups)
        if has_moments:
            seen.append((len(y) / n, *torch.batch_norm_update_stats(y, None, None, 0.0)))
            if keep and not _is_light(x, groups):
                found.put("y", at, y)
        signed = y if sign is None else y * sign
        torch.ops.aten.max_pool2d_with_indices.out(signed, [2, 2], out=pooled[at], indices=where[at])
    if sign is not None:
        pooled.mul_(sign)
    mean, var = _moments(seen) if has_moments else (x.new_zeros(n_channels), x.new_zeros(n_channels))
    return found.whole.get("y", _image(x, 0, n_channels, height, width)), pooled, mean, var, where


def step_grad(gradients: Gradients, saved: Saved, groups: int, needs_x: bool) -> tuple[Tensor | None, ...]:
    """Return the gradients of weight and x."""
    saved = saved._replace(weight=_channels_last(saved.weight))  # as a convolution wants it, once
    x, weight = saved.x, saved.weight
    flipped = flip(weight, groups) if needs_x else None
    found = Found(len(x))
    for at in blocks(x, len(weight)):
        g = _gradient(at, gradients, saved, _output(at, gradients, saved, groups))
        found.add("weight", correlate(x[at], g, groups))
        if flipped is not None:
            found.put("x", at, convolve(g, flipped, groups))
    return found.read("weight", "x")


def step_grad_grad(
    h_weight: Tensor | None,
    h_x: Tensor | None,
    gradients: Gradients,
    saved: Saved,
    groups: int,
    needs_x: bool,
) -> tuple[Tensor | None, ...]:
    """Return what `step_grad` passes on to the gradients of y and pooled, slope, offset, x, weight and y."""
    h_weight = None if h_weight is None else _channels_last(h_weight)
    saved = saved._replace(weight=_channels_last(saved.weight))  # as a convolution wants them, once
    x, weight, _, where = saved
    found = Found(len(x))
    back, h_back = (flip(w, groups) if needs_x and w is not None else None for w in (weight, h_weight))
    for at in blocks(x, len(weight)):
        y = _output(at, gradients, saved, groups)
        h = _moved(at, h_weight, h_x, saved, groups)
        if gradients.y is not None:
            found.put("g_y", at, h)
        if gradients.pooled is not None:
            found.put("g_pooled", at, _gather(h, where[at]))
        pairs = []  # of the gradient of a convolution's output, what else went into it: images and filters
        if h_x is not None or h_back is not None:
            image = None if h_x is None else h_x[at]
            pairs.append((_gradient(at, gradients, saved, y), image, h_back))
        if y is not None and gradients.slope is not None:
            found.add("slope", (h * y).sum((0, 2, 3)))
            found.add("offset", h.sum((0, 2, 3)))
            of_y = h * _wide(gradients.slope)
            if len(saved.y):
                found.put("y", at, of_y)
            else:  # it is a function of x and weight, then
                pairs.append((of_y, x[at], back))
        for g, image, _ in pairs:
            if image is not None:
                found.add("weight", correlate(image, g, groups))
        through = [convolve(g, filters, groups) for g, _, filters in pairs if filters is not None]
        if through:
            found.put("x", at, sum(through[1:], through[0]))
    return found.read("g_y", "g_pooled", "slope", "offset", "x", "weight", "y")


def rectify(x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """Return max(factor * x + shift, 0), channel by channel."""
    whole = _image(x, *x.shape)
    for at in blocks(x, x.shape[1]):
        torch.addcmul(_wide(shift), x[at], _wide(factor), out=whole[at]).relu_()
    return whole


def rectify_grad(g: Tensor, rectified: Tensor, x: Tensor, factor: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, factor and shift."""
    found = Found(len(x))
    for at in blocks(x, x.shape[1]):
        passed = torch.ops.aten.threshold_backward(_channels_last(g[at]), rectified[at], 0)
        found.add("factor", (passed * x[at]).sum((0, 2, 3)))
        found.add("shift", passed.sum((0, 2, 3)))
        found.put("x", at, passed.mul_(_wide(factor)))
    return found.read("x", "factor", "shift")


def rectify_grad_grad(
    h_x: Tensor | None,
    h_factor: Tensor | None,
    h_shift: Tensor | None,
    g: Tensor,
    rectified: Tensor,
    x: Tensor,
    factor: Tensor,
) -> tuple[Tensor | None, ...]:
    """Return what `rectify_grad` passes on to g, x and factor."""
    found = Found(len(x))
    for at in blocks(x, x.shape[1]):
        h = _image(x, *x[at].shape).zero_() if h_x is None else _channels_last(h_x[at]) * _wide(factor)
        passed = torch.ops.aten.threshold_backward(_channels_last(g[at]), rectified[at], 0)
        if h_x is not None:
            found.add("factor", (passed * h_x[at]).sum((0, 2, 3)))
        if h_factor is not None:
            h.addcmul_(x[at], _wide(h_factor))
            found.put("x", at, passed.mul_(_wide(h_factor)))
        if h_shift is not None:
            h.add_(_wide(h_shift))
        found.put("g", at, torch.ops.aten.threshold_backward(h, rectified[at], 0))
    return found.read("g", "x", "factor")


def _image(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _wide(of_channels: Tensor) -> Tensor:
    return of_channels[:, None, None]


def _is_light(x: Tensor, groups: int) -> bool:
    return x.shape[1] // groups <= FEW


def _output(at: slice, gradients: Gradients, saved: Saved, groups: int) -> Tensor | None:
    # The convolution's, where the gradients of the moments ask for it.
    if gradients.slope is None:
        return None
    return saved.y[at] if len(saved.y) else convolve(saved.x[at], saved.weight, groups)


def _gradient(at: slice, gradients: Gradients, saved: Saved, y: Tensor | None) -> Tensor:
    # Of the convolution's output; cheaper to put together anew than to keep.
    where = saved.where[at]
    g = _image(saved.x, len(where), where.shape[1], *saved.x.shape[2:])
    if gradients.pooled is None:
        g.zero_()
    else:
        geometry = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        g = torch.ops.aten.max_pool2d_with_indices_backward(
            _channels_last(gradients.pooled[at]), g, *geometry, _channels_last(where)
        )
    if y is not None and gradients.slope is not None and gradients.offset is not None:
        g.addcmul_(y, _wide(gradients.slope)).add_(_wide(gradients.offset))
    return g if gradients.y is None else g.add_(gradients.y[at])


def _moved(at: slice, h_weight: Tensor | None, h_x: Tensor | None, saved: Saved, groups: int) -> Tensor:
    # How the convolution's output moves, where weight and x move along h_weight and h_x.
    ways = ((saved.x, h_weight), (h_x, saved.weight))
    moves = [convolve(a[at], b, groups) for a, b in ways if a is not None and b is not None]
    return moves[0] if len(moves) == 1 else moves[0].add_(moves[1])


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def convolve(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Convolve 3 x 3, zero-padded to the same size."""
    return F.conv2d(_channels_last(x), weight, padding=1, groups=groups)


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
        _channels_last(g), _channels_last(x), weight, None, *geometry, [False, True, False]
    )[1]


def _sign(scale: Tensor) -> Tensor:
    return _wide(torch.where(scale < 0, -1.0, 1.0).to(scale.dtype))


def _moments(seen: Sequence[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    # Of all blocks, from each one's share of the examples, mean and variance (the law of total variance).
    if len(seen) == 1:
        return seen[0][1:]
    shares, means, variances = zip(*seen, strict=True)
    share, each = means[0].new_tensor(shares)[:, None], torch.stack(means)
    mean = (share * each).sum(0)
    return mean, (share * (each - mean).square_().add_(torch.stack(variances))).sum(0)


def _gather(y: Tensor, where: Tensor) -> Tensor:
    rows = where.permute(0, 2, 3, 1)
    pooled = y.permute(0, 2, 3, 1).flatten(1, 2).gather(1, rows.flatten(1, 2))
    return pooled.unflatten(1, rows.shape[1:3]).permute(0, 3, 1, 2)
