"""Kernels that scale, shift and rectify images, and take gradients back, twice."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from metabench import steps
from metabench.gpu import rows
from metabench.gpu.rows import (
    dense,
    grid,
    if_any,
    image,
    lying,
    of_channels,
    present,
    put,
    put_part,
    read,
    sum_parts,
    write,
)
from metabench.steps import Norm

EPSILON = tl.constexpr(steps.EPSILON)


def rectify(x: Tensor, norm: Norm) -> Tensor:
    """Normalise, scale and shift, channel by channel, and let no pixel be negative."""
    x = lying(x)
    rectified = image(x, *x.shape)
    sizes = _sizes(x)
    rows.launch(_rectify, grid(*sizes), x, *dense(*norm), rectified, *sizes, **rows.BLOCK)
    return rectified


def rectify_grad(g: Tensor, rectified: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, scale, shift, mean and var."""
    g, x, rectified = lying(g), lying(x), lying(rectified)
    scale, _, mean, var = dense(*norm)
    sizes = _sizes(x)
    programs = grid(*sizes)
    of_x, parts = image(x, *x.shape), x.new_empty(programs[0], 2, sizes[1])
    rows.launch(_grad, programs, g, rectified, x, scale, mean, var, of_x, parts, *sizes, **rows.BLOCK)
    found = x.new_empty(4, sizes[1])
    given = (parts, scale, var, found, len(parts), sizes[1])
    rows.launch(_grad_of_channels, programs[1:], *given, **rows.BLOCK)
    return of_x, *found


def rectify_grad_grad(
    h_x: Tensor | None, h: Sequence[Tensor | None], g: Tensor, rectified: Tensor, x: Tensor, norm: Norm
) -> tuple[Tensor | None, ...]:
    """Return what `rectify_grad` passes on to g, x, scale, mean and var.

    Args:
        h: gradients of what it returned for scale, shift, mean and var.
    """
    g, x, rectified = lying(g), lying(x), lying(rectified)
    scale, _, mean, var = dense(*norm)
    sizes = _sizes(x)
    programs = grid(*sizes)
    of_g, of_x = image(x, *x.shape), image(x, *x.shape)
    parts, found = x.new_empty(programs[0], 3, sizes[1]), x.new_empty(3, sizes[1])
    vectors = [None if one is None else one.contiguous() for one in h]
    (h_x, *moves), has = present(None if h_x is None else lying(h_x), *vectors, instead=x)
    images = (h_x, *moves, g, rectified, x, scale, mean, var, of_g, of_x, parts)
    rows.launch(_grad_grad, programs, *images, *sizes, *has, **rows.BLOCK)
    h_scale, _, h_mean, h_var = moves
    given = (parts, h_scale, h_mean, h_var, scale, var, found, len(parts), sizes[1])
    rows.launch(_grad_grad_of_channels, programs[1:], *given, *has[:2], *has[3:], **rows.BLOCK)
    return of_g, of_x, *found


def _sizes(x: Tensor) -> tuple[int, int]:
    # Rows of pixels, and channels.
    return len(x) * x.shape[2] * x.shape[3], x.shape[1]


@triton.jit
def _root(var, c, n_channels):
    return tl.rsqrt(of_channels(var, c, n_channels) + EPSILON)


@triton.jit
def _rectify(
    x, scale, shift, mean, var, rectified, n_rows, n_channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, is_row = m.to(tl.int64), m < n_rows
    factor = of_channels(scale, c, n_channels) * _root(var, c, n_channels)
    apart = read(x, row, is_row, c, n_channels) - of_channels(mean, c, n_channels)[None, :]
    value = apart * factor[None, :] + of_channels(shift, c, n_channels)[None, :]
    # Not a maximum: what is not a number must stay so.
    write(rectified, row, is_row, c, n_channels, tl.where(value <= 0, 0.0, value))


@triton.jit
def _grad(
    g,
    rectified,
    x,
    scale,
    mean,
    var,
    of_x,
    parts,  # [programs, 2, channels]: of what passes by x's distance from the mean, and of what passes
    n_rows,
    n_channels,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, is_row = m.to(tl.int64), m < n_rows
    factor = of_channels(scale, c, n_channels) * _root(var, c, n_channels)
    is_on = read(rectified, row, is_row, c, n_channels) > 0
    passed = tl.where(is_on, read(g, row, is_row, c, n_channels), 0.0)
    apart = read(x, row, is_row, c, n_channels) - of_channels(mean, c, n_channels)[None, :]
    write(of_x, row, is_row, c, n_channels, passed * factor[None, :])
    put_part(parts, 0, 2, c, n_channels, passed * apart)
    put_part(parts, 1, 2, c, n_channels, passed)


@triton.jit
def _grad_of_channels(
    parts,
    scale,
    var,
    found,  # [4, channels]: of scale, shift, mean and var
    n_parts,
    n_channels,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    root, factor = _root(var, c, n_channels), of_channels(scale, c, n_channels)
    apart = sum_parts(parts, 0, 2, n_parts, c, n_channels, BLOCK_M, BLOCK_C)
    whole = sum_parts(parts, 1, 2, n_parts, c, n_channels, BLOCK_M, BLOCK_C)
    put(found, 0, c, n_channels, apart * root)
    put(found, 1, c, n_channels, whole)
    put(found, 2, c, n_channels, -whole * root * factor)
    put(found, 3, c, n_channels, apart * factor * root * root * root * -0.5)


@triton.jit
def _turn(h_scale, h_var, scale, root, c, n_channels, HAS_SCALE: tl.constexpr, HAS_VAR: tl.constexpr):
    # What is returned for channels is the sum of what passes by turn * (x - mean) + push.
    turn = if_any(h_scale, c, n_channels, HAS_SCALE) * root
    return turn - if_any(h_var, c, n_channels, HAS_VAR) * scale * root * root * root * 0.5


@triton.jit
def _grad_grad(
    h_x,
    h_scale,
    h_shift,
    h_mean,
    h_var,
    g,
    rectified,
    x,
    scale,
    mean,
    var,
    of_g,
    of_x,
    parts,  # [programs, 3, channels]: of what passes by x's distance from the mean, itself, and by h_x
    n_rows,
    n_channels,
    HAS_X: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_MEAN: tl.constexpr,
    HAS_VAR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, is_row = m.to(tl.int64), m < n_rows
    root, factor = _root(var, c, n_channels), of_channels(scale, c, n_channels)
    turn = _turn(h_scale, h_var, factor, root, c, n_channels, HAS_SCALE, HAS_VAR)
    push = if_any(h_shift, c, n_channels, HAS_SHIFT)
    push -= if_any(h_mean, c, n_channels, HAS_MEAN) * factor * root
    is_on = read(rectified, row, is_row, c, n_channels) > 0
    passed = tl.where(is_on, read(g, row, is_row, c, n_channels), 0.0)
    apart = read(x, row, is_row, c, n_channels) - of_channels(mean, c, n_channels)[None, :]
    total = apart * turn[None, :] + push[None, :]
    put_part(parts, 0, 3, c, n_channels, passed * apart)
    put_part(parts, 1, 3, c, n_channels, passed)
    if HAS_X:
        moved = read(h_x, row, is_row, c, n_channels)
        total += moved * (factor * root)[None, :]
        put_part(parts, 2, 3, c, n_channels, passed * moved)
    write(of_g, row, is_row, c, n_channels, tl.where(is_on, total, 0.0))
    write(of_x, row, is_row, c, n_channels, passed * turn[None, :])


@triton.jit
def _grad_grad_of_channels(
    parts,
    h_scale,
    h_mean,
    h_var,
    scale,
    var,
    found,  # [3, channels]: of scale, mean and var
    n_parts,
    n_channels,
    HAS_X: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_MEAN: tl.constexpr,
    HAS_VAR: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    root, factor = _root(var, c, n_channels), of_channels(scale, c, n_channels)
    turn = _turn(h_scale, h_var, factor, root, c, n_channels, HAS_SCALE, HAS_VAR)
    of_turn = sum_parts(parts, 0, 3, n_parts, c, n_channels, BLOCK_M, BLOCK_C)
    whole = sum_parts(parts, 1, 3, n_parts, c, n_channels, BLOCK_M, BLOCK_C)
    of_factor = -if_any(h_mean, c, n_channels, HAS_MEAN) * whole
    if HAS_X:
        of_factor += sum_parts(parts, 2, 3, n_parts, c, n_channels, BLOCK_M, BLOCK_C)
    by_var = if_any(h_var, c, n_channels, HAS_VAR) * root * root
    of_root = if_any(h_scale, c, n_channels, HAS_SCALE) - by_var * factor * 1.5
    of_root = factor * of_factor + of_turn * of_root
    put(found, 0, c, n_channels, root * (of_factor - by_var * 0.5 * of_turn))
    put(found, 1, c, n_channels, -turn * whole)
    put(found, 2, c, n_channels, of_root * root * root * root * -0.5)
