"""Kernels that scale, shift and rectify images, and take gradients back, twice."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from metabench.gpu import rows
from metabench.gpu.rows import CHANNELS, ROWS, add_part, grid, image, lying, of_channels, read, write

BLOCK: dict[str, Any] = {"BLOCK_M": ROWS, "BLOCK_C": CHANNELS}


def rectify(x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
    """Return max(factor * x + shift, 0), channel by channel."""
    x = lying(x)
    rectified = image(x, *x.shape)
    n_rows, n_channels = _size(x)
    programs = grid(n_rows, n_channels)
    rows.launch(
        _rectify, programs, x, factor.contiguous(), shift.contiguous(), rectified, n_rows, n_channels, **BLOCK
    )
    return rectified


def rectify_grad(g: Tensor, rectified: Tensor, x: Tensor, factor: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, factor and shift."""
    g, x, rectified = lying(g), lying(x), lying(rectified)
    n_rows, n_channels = _size(x)
    programs = grid(n_rows, n_channels)
    of_x, parts = image(x, *x.shape), x.new_empty(programs[0], 2, n_channels)
    rows.launch(
        _rectify_grad,
        programs,
        g,
        rectified,
        x,
        factor.contiguous(),
        of_x,
        parts,
        n_rows,
        n_channels,
        **BLOCK,
    )
    return of_x, *parts.sum(0)


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
    g, x, rectified = lying(g), lying(x), lying(rectified)
    n_rows, n_channels = _size(x)
    programs = grid(n_rows, n_channels)
    of_g, of_x = image(x, *x.shape), None if h_factor is None else image(x, *x.shape)
    parts = None if h_x is None else x.new_empty(programs[0], 1, n_channels)
    moves = [
        None if h_x is None else lying(h_x),
        *(None if h is None else h.contiguous() for h in (h_factor, h_shift)),
    ]
    given = [x if one is None else one for one in (*moves, g, rectified, x, factor.contiguous())]
    found = [x if one is None else one for one in (of_g, of_x, parts)]
    has = [one is not None for one in moves]
    rows.launch(_rectify_grad_grad, programs, *given, *found, n_rows, n_channels, *has, **BLOCK)
    return of_g, of_x, None if parts is None else parts.sum((0, 1))


def _size(x: Tensor) -> tuple[int, int]:
    return len(x) * x.shape[2] * x.shape[3], x.shape[1]


@triton.jit
def _rectify(x, factor, shift, rectified, n_rows, n_channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, is_row = m.to(tl.int64), m < n_rows
    value = read(x, row, is_row, c, n_channels) * of_channels(factor, c, n_channels)
    value += of_channels(shift, c, n_channels)
    # Not a maximum: what is not a number must stay so.
    write(rectified, row, is_row, c, n_channels, tl.where(value <= 0, 0.0, value))


@triton.jit
def _rectify_grad(
    g,
    rectified,
    x,
    factor,
    of_x,
    parts,  # [programs, 2, channels]: of factor and shift
    n_rows,
    n_channels,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, is_row = m.to(tl.int64), m < n_rows
    is_on = read(rectified, row, is_row, c, n_channels) > 0
    passed = tl.where(is_on, read(g, row, is_row, c, n_channels), 0.0)
    write(of_x, row, is_row, c, n_channels, passed * of_channels(factor, c, n_channels))
    add_part(parts, 0, 2, c, n_channels, passed * read(x, row, is_row, c, n_channels))
    add_part(parts, 1, 2, c, n_channels, passed)


@triton.jit
def _rectify_grad_grad(
    h_x,
    h_factor,
    h_shift,
    g,
    rectified,
    x,
    factor,
    of_g,
    of_x,
    parts,  # [programs, 1, channels]: of factor
    n_rows,
    n_channels,
    HAS_X: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, is_row = m.to(tl.int64), m < n_rows
    is_on = read(rectified, row, is_row, c, n_channels) > 0
    passed = tl.where(is_on, read(g, row, is_row, c, n_channels), 0.0)
    h = tl.zeros((BLOCK_M, BLOCK_C), g.dtype.element_ty)
    if HAS_X:
        moved = read(h_x, row, is_row, c, n_channels)
        h += moved * of_channels(factor, c, n_channels)
        add_part(parts, 0, 1, c, n_channels, passed * moved)
    if HAS_FACTOR:
        turned = of_channels(h_factor, c, n_channels)
        h += read(x, row, is_row, c, n_channels) * turned
        write(of_x, row, is_row, c, n_channels, passed * turned)
    if HAS_SHIFT:
        h += of_channels(h_shift, c, n_channels)
    write(of_g, row, is_row, c, n_channels, tl.where(is_on, h, 0.0))
