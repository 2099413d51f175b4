"""Kernels that scale, shift and rectify images, and take gradients back, twice."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from metabench.nets.kernels import types
from metabench.nets.kernels.cpu.kernels import channels_last, image
from metabench.nets.kernels.gpu import rows
from metabench.nets.kernels.gpu.rows import (
    CHANNELS,
    ROWS,
    grid,
    of_channels,
    present,
    put,
    put_part,
    read,
    sum_parts,
    write,
)
from metabench.nets.kernels.types import Passed, Rectified, Tensors

EPSILON = tl.constexpr(types.EPSILON)


def rectify(x: Tensor, scale: Tensor, shift: Tensor, moments: Tensor) -> Tensor:
    """Normalise, scale and shift, channel by channel, and let no pixel be negative."""
    x = channels_last(x)
    images, sizes = image(x, *x.shape), _sizes(x)
    vectors = (one.contiguous() for one in (scale, shift, moments))
    rows.over(_rectify, grid(*sizes), (x, *vectors, images, sizes[0]), sizes[1])
    return images


def rectify_grad(g: Tensor, rectified: Rectified) -> Tensors:
    """Return the gradients of x, scale, shift and moments."""
    images, x, scale, moments = _lying(rectified)
    n_rows, n_channels = _sizes(x)
    programs = grid(n_rows, n_channels)
    of_x, parts = image(x, *x.shape), x.new_empty(programs[0], 2, n_channels)
    rows.over(_grad, programs, (channels_last(g), images, x, scale, moments, of_x, parts, n_rows), n_channels)
    results = (x.new_empty(n_channels), x.new_empty(n_channels), x.new_empty(n_channels, 2))
    rows.over(_grad_of_channels, programs[1:], (parts, scale, moments, *results, len(parts)), n_channels)
    return of_x, *results


def rectify_grad_grad(h: Tensors, passed: Passed, rectified: Rectified) -> Tensors:
    """Return what `rectify_grad` passes on to g, x, scale and moments, from the gradients of its results."""
    h_x, h_scale, h_shift, h_moments = h
    images, x, scale, moments = _lying(rectified)
    n_rows, n_channels = _sizes(x)
    programs = grid(n_rows, n_channels)
    of_g, of_x, parts = image(x, *x.shape), image(x, *x.shape), x.new_empty(programs[0], 1, n_channels)
    h_x = None if h_x is None else channels_last(h_x)
    vectors = [None if one is None else one.contiguous() for one in (h_scale, h_shift, h_moments)]
    moved, has = present(h_x, *vectors, instead=x)
    inputs = (*moved, channels_last(passed.g), images, x, scale, moments, of_g, of_x, parts, n_rows)
    rows.over(_grad_grad, programs, inputs, n_channels, *has)
    of_scale, of_moments = x.new_empty(n_channels), x.new_empty(n_channels, 2)
    _, h_scale, _, h_moments = moved
    sums = passed.of_scale.contiguous(), passed.of_shift.contiguous()
    inputs = (parts, *sums, h_scale, h_moments, scale, moments, of_scale, of_moments, len(parts))
    rows.over(_grad_grad_of_channels, programs[1:], inputs, n_channels, has[0], has[1], has[3])
    return of_g, of_x, of_scale, of_moments


def _sizes(x: Tensor) -> tuple[int, int]:
    # Rows of pixels, and channels.
    return len(x) * x.shape[2] * x.shape[3], x.shape[1]


def _lying(rectified: Rectified) -> Rectified:
    images, x, scale, moments = rectified
    return Rectified(channels_last(images), channels_last(x), scale.contiguous(), moments.contiguous())


@triton.jit
def _root(moments, c, n_channels):
    return tl.rsqrt(of_channels(moments, c, n_channels, 1, 2) + EPSILON)


@rows.sized
def _rectify(x, scale, shift, moments, images, n_rows, n_quads, PER: tl.constexpr):
    n_channels = n_quads * PER
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row, is_row = m.to(tl.int64), m < n_rows
    factor = of_channels(scale, c, n_channels) * _root(moments, c, n_channels)
    apart = read(x, row, is_row, c, n_channels) - of_channels(moments, c, n_channels, 0, 2)[None, :]
    value = apart * factor[None, :] + of_channels(shift, c, n_channels)[None, :]
    # Not a maximum: what is not a number must stay so.
    write(images, row, is_row, c, n_channels, tl.where(value <= 0, 0.0, value))


@rows.sized
def _grad(g, images, x, scale, moments, of_x, parts, n_rows, n_quads, PER: tl.constexpr):
    # parts [programs, 2, channels]: of what passes by x's distance from the mean, and of what passes
    n_channels = n_quads * PER
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row, is_row = m.to(tl.int64), m < n_rows
    factor = of_channels(scale, c, n_channels) * _root(moments, c, n_channels)
    is_on = read(images, row, is_row, c, n_channels) > 0
    passed = tl.where(is_on, read(g, row, is_row, c, n_channels), 0.0)
    apart = read(x, row, is_row, c, n_channels) - of_channels(moments, c, n_channels, 0, 2)[None, :]
    write(of_x, row, is_row, c, n_channels, passed * factor[None, :])
    put_part(parts, 0, 2, c, n_channels, passed * apart)
    put_part(parts, 1, 2, c, n_channels, passed)


@rows.sized
def _grad_of_channels(
    parts, scale, moments, of_scale, of_shift, of_moments, n_parts, n_quads, PER: tl.constexpr
):
    n_channels = n_quads * PER
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    root, factor = _root(moments, c, n_channels), of_channels(scale, c, n_channels)
    apart = sum_parts(parts, 0, 2, n_parts, c, n_channels)
    whole = sum_parts(parts, 1, 2, n_parts, c, n_channels)
    put(of_scale, c, n_channels, apart * root)
    put(of_shift, c, n_channels, whole)
    put(of_moments, c, n_channels, -whole * root * factor, 0, 2)
    put(of_moments, c, n_channels, apart * factor * root * root * root * -0.5, 1, 2)


@triton.jit
def _moves(h_scale, h_moments, c, n_channels, HAS_SCALE: tl.constexpr, HAS_MOMENTS: tl.constexpr):
    # How the gradients of scale, mean and var move; zero where they are not asked for.
    none = c.to(h_scale.dtype.element_ty) * 0
    of_scale, of_mean, of_var = none, none, none
    if HAS_SCALE:
        of_scale = of_channels(h_scale, c, n_channels)
    if HAS_MOMENTS:
        of_mean = of_channels(h_moments, c, n_channels, 0, 2)
        of_var = of_channels(h_moments, c, n_channels, 1, 2)
    return of_scale, of_mean, of_var


@rows.sized
def _grad_grad(
    h_x,
    h_scale,
    h_shift,
    h_moments,
    g,
    images,
    x,
    scale,
    moments,
    of_g,
    of_x,
    parts,
    n_rows,
    n_quads,
    HAS_X: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    PER: tl.constexpr,
):
    # parts [programs, 1, channels]: of what passes by h_x
    n_channels = n_quads * PER
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    row, is_row = m.to(tl.int64), m < n_rows
    root, factor = _root(moments, c, n_channels), of_channels(scale, c, n_channels)
    by_scale, by_mean, by_var = _moves(h_scale, h_moments, c, n_channels, HAS_SCALE, HAS_MOMENTS)
    # All that is returned for channels moves with the sum of what passes by turn * (x - mean) + push.
    turn = by_scale * root - by_var * factor * root * root * root * 0.5
    push = -by_mean * factor * root
    if HAS_SHIFT:
        push += of_channels(h_shift, c, n_channels)
    is_on = read(images, row, is_row, c, n_channels) > 0
    passed = tl.where(is_on, read(g, row, is_row, c, n_channels), 0.0)
    apart = read(x, row, is_row, c, n_channels) - of_channels(moments, c, n_channels, 0, 2)[None, :]
    total = apart * turn[None, :] + push[None, :]
    if HAS_X:
        moved = read(h_x, row, is_row, c, n_channels)
        total += moved * (factor * root)[None, :]
        put_part(parts, 0, 1, c, n_channels, passed * moved)
    write(of_g, row, is_row, c, n_channels, tl.where(is_on, total, 0.0))
    write(of_x, row, is_row, c, n_channels, passed * turn[None, :])


@rows.sized
def _grad_grad_of_channels(
    parts,
    passed_of_scale,
    passed_of_shift,
    h_scale,
    h_moments,
    scale,
    moments,
    of_scale,
    of_moments,
    n_parts,
    n_quads,
    HAS_X: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    PER: tl.constexpr,
):
    n_channels = n_quads * PER
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    root, factor = _root(moments, c, n_channels), of_channels(scale, c, n_channels)
    by_scale, by_mean, by_var = _moves(h_scale, h_moments, c, n_channels, HAS_SCALE, HAS_MOMENTS)
    by_var *= root * root
    of_turn = of_channels(passed_of_scale, c, n_channels) / root
    whole = of_channels(passed_of_shift, c, n_channels)
    of_factor = -by_mean * whole
    if HAS_X:
        of_factor += sum_parts(parts, 0, 1, n_parts, c, n_channels)
    put(of_scale, c, n_channels, root * (of_factor - by_var * 0.5 * of_turn))
    put(of_moments, c, n_channels, (by_var * factor * 0.5 - by_scale) * root * whole, 0, 2)
    of_root = factor * of_factor + of_turn * (by_scale - by_var * factor * 1.5)
    put(of_moments, c, n_channels, of_root * root * root * root * -0.5, 1, 2)
