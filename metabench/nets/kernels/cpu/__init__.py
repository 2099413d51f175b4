"""The arithmetic of `operators` on a CPU: grouped, channels-last kernels over blocks that fit a cache.

Some examples pass through a whole step before the next ones start: memory is several times slower than a
core's own cache. Images are [n, G * C, H, W] for G groups of channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metabench.nets.kernels.cpu.kernels import (
    Gathered,
    blocks,
    channels_last,
    convolve,
    correlate,
    flip,
    image,
    wide,
)
from metabench.nets.kernels.cpu.rectifying import rectify, rectify_grad, rectify_grad_grad
from metabench.nets.kernels.types import Gradients, Saved, Tensors

__all__ = ["rectify", "rectify_grad", "rectify_grad_grad", "step", "step_grad", "step_grad_grad"]

FEW = 4
"""Channels of which a convolution is computed again sooner than its output is kept."""


Line = tuple[Tensor, Tensor] | None
"""Slope and offset of what the gradients of mean and var add to that of y, channel by channel."""


def step(
    x: Tensor, weight: Tensor, scale: Tensor, groups: int, has_moments: bool, keep: bool
) -> tuple[Tensor, ...]:
    """Convolve, take each channel's moments, and keep of each 2 x 2 pixels the largest.

    Args:
        scale: of each channel; where it is negative the smallest pixel is kept.
        keep: whether a gradient will be taken.

    Returns:
        y, the pooled image, the moments (zeros without `has_moments`), and where; see `Saved`.
    """
    weight = channels_last(weight)  # as a convolution wants it, once for all blocks
    n, n_channels, height, width = len(x), len(weight), *x.shape[2:]
    pooled = image(x, n, n_channels, height // 2, width // 2)
    where = torch.empty_like(pooled, dtype=torch.int64)
    has_negative = bool((scale < 0).any())
    sign = wide(torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)) if has_negative else None
    gathered, seen = Gathered(n), []
    for at in blocks(x, len(weight)):
        y = convolve(x[at], weight, groups)
        if has_moments:
            seen.append((len(y) / n, *torch.batch_norm_update_stats(y, None, None, 0.0)))
            if keep and x.shape[1] // groups > FEW:
                gathered.put("y", at, y)
        signed = y if sign is None else y * sign
        torch.ops.aten.max_pool2d_with_indices.out(signed, [2, 2], out=pooled[at], indices=where[at])
    if sign is not None:
        pooled.mul_(sign)
    moments = torch.stack(_moments(seen), 1) if has_moments else x.new_zeros(n_channels, 2)
    return gathered.whole.get("y", image(x, 0, n_channels, height, width)), pooled, moments, where


def step_grad(gradients: Gradients, saved: Saved) -> Tensors:
    """Return the gradients of weight and x."""
    saved = saved._replace(weight=channels_last(saved.weight))  # as a convolution wants it, once
    x, weight, *_, groups, needs_x = saved
    flipped, line = flip(weight, groups) if needs_x else None, _line(gradients, saved)
    gathered = Gathered(len(x))
    for at in blocks(x, len(weight)):
        g = _gradient(at, gradients, saved, line, _output(at, line, saved))
        gathered.add("weight", correlate(x[at], g, groups))
        if flipped is not None:
            gathered.put("x", at, convolve(g, flipped, groups))
    return gathered.read("weight", "x")


def step_grad_grad(
    h_weight: Tensor | None, h_x: Tensor | None, gradients: Gradients, saved: Saved
) -> Tensors:
    """Return what `step_grad` passes on to the gradients of all that a step returned, and what it saved."""
    h_weight = None if h_weight is None else channels_last(h_weight)
    saved = saved._replace(weight=channels_last(saved.weight))  # as a convolution wants them, once
    x, weight, _, _, where, groups, needs_x = saved
    gathered, line = Gathered(len(x)), _line(gradients, saved)
    back, h_back = (flip(w, groups) if needs_x and w is not None else None for w in (weight, h_weight))
    for at in blocks(x, len(weight)):
        y = _output(at, line, saved)
        h = _moved(at, h_weight, h_x, saved)
        if gradients.y is not None:
            gathered.put("g_y", at, h)
        if gradients.pooled is not None:
            gathered.put("g_pooled", at, _gather(h, where[at]))
        pairs = []  # of the gradient of a convolution's output, what else went into it: images and filters
        if h_x is not None or h_back is not None:
            moved = None if h_x is None else h_x[at]
            pairs.append((_gradient(at, gradients, saved, line, y), moved, h_back))
        if y is not None and line is not None:
            gathered.add("slope", (h * y).sum((0, 2, 3)))
            gathered.add("offset", h.sum((0, 2, 3)))
            if len(saved.y):
                gathered.put("y", at, h * wide(line[0]))
            else:  # it is a function of x and weight, then
                pairs.append((h * wide(line[0]), x[at], back))
        for g, other, _ in pairs:
            if other is not None:
                gathered.add("weight", correlate(other, g, groups))
        through = [convolve(g, filters, groups) for g, _, filters in pairs if filters is not None]
        if through:
            gathered.put("x", at, sum(through[1:], through[0]))
    of_g_moments, of_moments = _of_line(saved, line, *gathered.read("slope", "offset"))
    return *gathered.read("g_y", "g_pooled"), of_g_moments, *gathered.read("x", "weight", "y"), of_moments


def _line(gradients: Gradients, saved: Saved) -> Line:
    if gradients.moments is None:
        return None
    g_mean, g_var = gradients.moments.mul(1 / _count(saved)).unbind(1)
    slope = g_var * 2
    return slope, torch.addcmul(g_mean, saved.moments[:, 0], slope, value=-1)


def _of_line(saved: Saved, line: Line, of_slope: Tensor | None, of_offset: Tensor | None) -> Tensors:
    # What reaches the gradients of the moments, and the moments themselves, through the line.
    if line is None or of_slope is None or of_offset is None:
        return None, None
    apart = torch.addcmul(of_slope, saved.moments[:, 0], of_offset, value=-1)
    of_moments = torch.zeros_like(saved.moments)
    torch.mul(line[0], of_offset, out=of_moments[:, 0]).neg_()
    return torch.stack([of_offset, apart * 2], 1).div_(_count(saved)), of_moments


def _count(saved: Saved) -> int:
    return len(saved.x) * saved.x.shape[2] * saved.x.shape[3]


def _output(at: slice, line: Line, saved: Saved) -> Tensor | None:
    # The convolution's, where the gradients of the moments ask for it.
    if line is None:
        return None
    return saved.y[at] if len(saved.y) else convolve(saved.x[at], saved.weight, saved.groups)


def _gradient(at: slice, gradients: Gradients, saved: Saved, line: Line, y: Tensor | None) -> Tensor:
    # Of the convolution's output; cheaper to put together anew than to keep.
    where = saved.where[at]
    g = image(saved.x, len(where), where.shape[1], *saved.x.shape[2:])
    if gradients.pooled is None:
        g.zero_()
    else:
        geometry = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        g = torch.ops.aten.max_pool2d_with_indices_backward(
            channels_last(gradients.pooled[at]), g, *geometry, channels_last(where)
        )
    if y is not None and line is not None:
        g.addcmul_(y, wide(line[0])).add_(wide(line[1]))
    return g if gradients.y is None else g.add_(gradients.y[at])


def _moved(at: slice, h_weight: Tensor | None, h_x: Tensor | None, saved: Saved) -> Tensor:
    # How the convolution's output moves, where weight and x move along h_weight and h_x.
    ways = ((saved.x, h_weight), (h_x, saved.weight))
    moves = [convolve(a[at], b, saved.groups) for a, b in ways if a is not None and b is not None]
    return moves[0] if len(moves) == 1 else moves[0].add_(moves[1])


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
