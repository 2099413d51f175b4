"""Kernels that take one of each 2 x 2 pixels and a channel's moments, and take gradients back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from metabench.nets.kernels.cpu.kernels import channels_last, image
from metabench.nets.kernels.gpu import rows
from metabench.nets.kernels.gpu.rows import (
    CHANNELS,
    ROWS,
    WINDOWS,
    grid,
    of_channels,
    present,
    put,
    put_part,
    read,
    sum_parts,
    write,
)
from metabench.nets.kernels.types import Gradients, Saved, Tensors


def pool(y: Tensor, scale: Tensor, has_moments: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the largest of each 2 x 2 pixels of [n, C, H, W], the smallest where the scale is negative.

    Returns:
        The pooled image, each kept pixel's place in its window (0 to 3), and each channel's mean and biased
        variance, [C, 2] (zeros without `has_moments`).
    """
    n, n_channels, height, width = y.shape
    pooled = image(y, n, n_channels, height // 2, width // 2)
    where = image(y, *pooled.shape, dtype=torch.uint8)
    n_windows = n * triton.cdiv(height, 2) * triton.cdiv(width, 2)
    programs = grid(n_windows, n_channels, WINDOWS.value)
    n_parts = programs[0] if has_moments else 1
    counts, parts = y.new_empty(n_parts), y.new_empty(n_parts, 2, n_channels)
    inputs = (channels_last(y), scale.contiguous(), pooled, where, counts, parts, n_windows, height, width)
    rows.over(_pool, programs, inputs, n_channels, has_moments)
    if not has_moments:
        return pooled, where, y.new_zeros(n_channels, 2)
    moments = y.new_empty(n_channels, 2)
    rows.over(_moments, programs[1:], (counts, parts, moments, n_parts), n_channels)
    return pooled, where, moments


def spread(gradients: Gradients, saved: Saved) -> Tensor:
    """Return the gradient of a convolution's output, [n, C, H, W], from those of all that a step returned."""
    (n, n_channels), (height, width) = saved.where.shape[:2], saved.x.shape[2:]
    g = image(saved.x, n, n_channels, height, width)
    images = [None if one is None else channels_last(one) for one in (gradients.pooled, gradients.y)]
    g_moments = None if gradients.moments is None else gradients.moments.contiguous()
    inputs, has = present(*images, g_moments, instead=g)
    inputs += [*map(channels_last, (saved.where, saved.y)), saved.moments.contiguous(), g]
    size = (n * height * width, height, width)
    rows.over(_spread, grid(size[0], n_channels), (*inputs, *size), n_channels, *has)
    return g


def gather(h: Tensor, gradients: Gradients, saved: Saved) -> Tensors:
    """Take what `spread` does with its arguments back.

    Args:
        h: gradient of what it returned, [n, C, H, W].

    Returns:
        The gradients of those of pooled and moments, of y, and of the moments.
    """
    n, n_channels, height, width = h.shape
    pooled = image(h, n, n_channels, height // 2, width // 2)
    n_windows, n_pixels = n * triton.cdiv(height, 2) * triton.cdiv(width, 2), n * height * width
    programs = grid(n_windows, n_channels, WINDOWS.value)
    has = gradients.moments is not None
    parts = h.new_empty(programs[0] if has else 1, 2, n_channels)
    g_moments = h if gradients.moments is None else gradients.moments.contiguous()
    of_y = image(h, *h.shape) if has else h
    images = map(channels_last, (h, saved.where, saved.y))
    tensors = (*images, g_moments, saved.moments.contiguous(), pooled, of_y, parts)
    geometry = (n_windows, n_pixels, height, width)
    rows.over(_gather, programs, (*tensors, *geometry), n_channels, has)
    if not has:
        return pooled, None, None, None
    of_g_moments, of_moments = (h.new_empty(n_channels, 2) for _ in range(2))
    inputs = (parts, g_moments, of_g_moments, of_moments, len(parts), n_pixels)
    rows.over(_gather_moments, programs[1:], inputs, n_channels)
    return pooled, of_g_moments, of_y, of_moments


@triton.jit
def _window(i, height, width):
    # The image, row and column of 2 x 2 windows, those cut off by the right and lower border among them.
    high, wide = (height + 1) // 2, (width + 1) // 2
    return i // (high * wide), (i // wide) % high, i % wide


@triton.jit
def _pixel(i, n_windows, place: tl.constexpr, height, width):
    # The row of a window's pixel, and whether there is such a pixel.
    image, r, q = _window(i, height, width)
    r, q = 2 * r + place // 2, 2 * q + place % 2
    return (image.to(tl.int64) * height + r) * width + q, (i < n_windows) & (r < height) & (q < width)


@triton.jit
def _pooled(i, n_windows, height, width):
    # The row of what is kept of a window, and whether it is kept.
    image, r, q = _window(i, height, width)
    is_whole = (i < n_windows) & (2 * r + 1 < height) & (2 * q + 1 < width)
    return (image.to(tl.int64) * (height // 2) + r) * (width // 2) + q, is_whole


@rows.sized
def _pool(
    y,
    scale,
    pooled,
    where,
    counts,
    parts,
    n_windows,
    height,
    width,
    n_quads,
    HAS_MOMENTS: tl.constexpr,
    PER: tl.constexpr,
):
    # counts [programs]
    # parts [programs, 2, channels]: mean, and sum of squares about it
    n_channels = n_quads * PER
    i = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    sign = tl.where(of_channels(scale, c, n_channels)[None, :] < 0, -1.0, 1.0).to(y.dtype.element_ty)
    row, is_row = _pixel(i, n_windows, 0, height, width)
    first = read(y, row, is_row, c, n_channels)
    best, chosen = first * sign, tl.zeros((WINDOWS, CHANNELS), tl.uint8)
    total, count = first, is_row.to(y.dtype.element_ty)
    for place in tl.static_range(1, 4):
        row, is_row = _pixel(i, n_windows, place, height, width)
        value = read(y, row, is_row, c, n_channels)
        total, count = total + value, count + is_row.to(y.dtype.element_ty)
        value *= sign
        is_better = (value > best) | (value != value)
        best, chosen = tl.where(is_better, value, best), tl.where(is_better, place, chosen).to(tl.uint8)
    row, is_row = _pooled(i, n_windows, height, width)
    write(pooled, row, is_row, c, n_channels, best * sign)
    write(where, row, is_row, c, n_channels, chosen)
    if HAS_MOMENTS:
        n = tl.sum(count, 0)
        mean = tl.sum(total, 0) / n
        squares = tl.zeros((WINDOWS, CHANNELS), y.dtype.element_ty)
        for place in tl.static_range(4):
            row, is_row = _pixel(i, n_windows, place, height, width)
            apart = read(y, row, is_row, c, n_channels) - mean[None, :]
            squares += tl.where(is_row[:, None], apart * apart, 0.0)
        tl.store(counts + tl.program_id(0), n)
        tl.store(parts + (tl.program_id(0) * 2) * n_channels + c, mean, mask=c < n_channels)
        put_part(parts, 1, 2, c, n_channels, squares)


@rows.sized
def _moments(counts, parts, moments, n_parts, n_quads, PER: tl.constexpr):
    # moments [channels, 2]
    n_channels = n_quads * PER
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((CHANNELS,), parts.dtype.element_ty)
    n = tl.zeros((ROWS,), parts.dtype.element_ty)
    for start in range(0, n_parts, ROWS):
        p = start + tl.arange(0, ROWS)
        count = tl.load(counts + p, mask=p < n_parts, other=0.0)
        n += count
        total += tl.sum(count[:, None] * read(parts, p * 2, p < n_parts, c, n_channels), 0)
    n_all = tl.sum(n, 0)
    whole = total / n_all
    squares = tl.zeros((CHANNELS,), parts.dtype.element_ty)
    for start in range(0, n_parts, ROWS):
        p = start + tl.arange(0, ROWS)
        count = tl.load(counts + p, mask=p < n_parts, other=0.0)
        apart = read(parts, p * 2, p < n_parts, c, n_channels) - whole[None, :]
        within = read(parts, p * 2 + 1, p < n_parts, c, n_channels)
        squares += tl.sum(within + count[:, None] * apart * apart, 0)
    put(moments, c, n_channels, whole, 0, 2)
    put(moments, c, n_channels, squares / n_all, 1, 2)


@rows.sized
def _spread(
    pooled,
    more,
    g_moments,
    where,
    y,
    moments,
    g,
    n_pixels,
    height,
    width,
    n_quads,
    HAS_POOLED: tl.constexpr,
    HAS_MORE: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    PER: tl.constexpr,
):
    n_channels = n_quads * PER
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row, is_row = m.to(tl.int64), m < n_pixels
    total = tl.zeros((ROWS, CHANNELS), g.dtype.element_ty)
    if HAS_POOLED:
        image, r, q = m // (height * width), (m // width) % height, m % width
        is_kept = is_row & (r // 2 < height // 2) & (q // 2 < width // 2)
        window = (image.to(tl.int64) * (height // 2) + r // 2) * (width // 2) + q // 2
        chosen = read(where, window, is_kept, c, n_channels).to(tl.int32)
        is_chosen = (chosen == (r % 2 * 2 + q % 2)[:, None]) & is_kept[:, None]
        total += tl.where(is_chosen, read(pooled, window, is_kept, c, n_channels), 0.0)
    if HAS_MOMENTS:
        offset = of_channels(g_moments, c, n_channels, 0, 2) / n_pixels
        slope = of_channels(g_moments, c, n_channels, 1, 2) * 2 / n_pixels
        apart = read(y, row, is_row, c, n_channels) - of_channels(moments, c, n_channels, 0, 2)[None, :]
        total += slope[None, :] * apart + offset[None, :]
    if HAS_MORE:
        total += read(more, row, is_row, c, n_channels)
    write(g, row, is_row, c, n_channels, total)


@rows.sized
def _gather(
    h,
    where,
    y,
    g_moments,
    moments,
    pooled,
    of_y,
    parts,
    n_windows,
    n_pixels,
    height,
    width,
    n_quads,
    HAS_MOMENTS: tl.constexpr,
    PER: tl.constexpr,
):
    # parts [programs, 2, channels]: of h by y's distance from its mean, and of h
    n_channels = n_quads * PER
    i = tl.program_id(0) * WINDOWS + tl.arange(0, WINDOWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    window, is_window = _pooled(i, n_windows, height, width)
    chosen = read(where, window, is_window, c, n_channels)
    kept = tl.zeros((WINDOWS, CHANNELS), h.dtype.element_ty)
    slopes, offsets = kept, kept
    for place in tl.static_range(4):
        row, is_row = _pixel(i, n_windows, place, height, width)
        value = read(h, row, is_row, c, n_channels)
        kept = tl.where(chosen == place, value, kept)
        if HAS_MOMENTS:
            slope = of_channels(g_moments, c, n_channels, 1, 2) * 2 / n_pixels
            apart = read(y, row, is_row, c, n_channels) - of_channels(moments, c, n_channels, 0, 2)[None, :]
            slopes += value * apart  # zero outside of the image, where h is
            offsets += value
            write(of_y, row, is_row, c, n_channels, value * slope[None, :])
    write(pooled, window, is_window, c, n_channels, kept)
    if HAS_MOMENTS:
        put_part(parts, 0, 2, c, n_channels, slopes)
        put_part(parts, 1, 2, c, n_channels, offsets)


@rows.sized
def _gather_moments(
    parts, g_moments, of_g_moments, of_moments, n_parts, n_pixels, n_quads, PER: tl.constexpr
):
    n_channels = n_quads * PER
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    slopes = sum_parts(parts, 0, 2, n_parts, c, n_channels)
    offsets = sum_parts(parts, 1, 2, n_parts, c, n_channels)
    put(of_g_moments, c, n_channels, offsets / n_pixels, 0, 2)
    put(of_g_moments, c, n_channels, slopes * 2 / n_pixels, 1, 2)
    slope = of_channels(g_moments, c, n_channels, 1, 2) * 2 / n_pixels
    put(of_moments, c, n_channels, -offsets * slope, 0, 2)
    put(of_moments, c, n_channels, tl.zeros_like(offsets), 1, 2)
