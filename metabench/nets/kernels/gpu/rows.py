"""What all kernels share: blocks of rows of pixels by channels, and how a kernel is launched.

An image [n, C, H, W] lies channels last, as rows of pixels: [n * H * W, C].
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, CHANNELS = tl.constexpr(32), tl.constexpr(64)
"""Of a block that one program works on."""

WINDOWS = tl.constexpr(16)
"""Of 2 x 2 pixels that one program works on."""

WARPS = 4
"""Of a program, unless it says otherwise."""

SIZES = (
    *("n_pixels", "height", "width", "groups", "n_of_split"),
    *("n_windows", "n_parts", "n_rows", "n_quads"),
)

sized = triton.jit(do_not_specialize=SIZES)
"""Decorates what is launched: one program for all sizes, as compiling each takes half a second."""


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Start a kernel where its first tensor is; a tensor without values needs none."""
    device = next(one.device for one in arguments if isinstance(one, Tensor))
    if device.type == "meta":
        return
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, **{"num_warps": WARPS, **constants})


def over(kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], n_channels: int, *flags: bool) -> None:
    """Start a kernel over blocks of rows and channels.

    A compiler that knows channels to be a multiple of four reads and writes four at once.
    """
    per = 4 if n_channels % 4 == 0 else 1
    launch(kernel, grid, *arguments, n_channels // per, *flags, PER=per)


def grid(n_rows: int, n_channels: int, rows: int = ROWS.value) -> tuple[int, int]:
    """Return how many programs there are along rows and channels."""
    return triton.cdiv(n_rows, rows), triton.cdiv(n_channels, CHANNELS.value)


def present(*tensors: Tensor | None, instead: Tensor) -> tuple[list[Tensor], list[bool]]:
    """Return tensors, with another in the place of what is not there, and which are there."""
    return [instead if one is None else one for one in tensors], [one is not None for one in tensors]


@triton.jit
def read(images, row, is_row, c, n_channels):
    at = row[:, None] * n_channels + c[None, :]
    return tl.load(images + at, mask=is_row[:, None] & (c < n_channels)[None, :], other=0)


@triton.jit
def write(images, row, is_row, c, n_channels, values):
    at = row[:, None] * n_channels + c[None, :]
    tl.store(images + at, values, mask=is_row[:, None] & (c < n_channels)[None, :])


@triton.jit
def of_channels(vectors, c, n_channels, which: tl.constexpr = 0, n: tl.constexpr = 1):
    # A column of [channels, n].
    return tl.load(vectors + c * n + which, mask=c < n_channels, other=0.0)


@triton.jit
def put(vectors, c, n_channels, values, which: tl.constexpr = 0, n: tl.constexpr = 1):
    tl.store(vectors + c * n + which, values, mask=c < n_channels)


@triton.jit
def put_part(parts, which: tl.constexpr, n: tl.constexpr, c, n_channels, values):
    # What one program adds to the sums [programs, n, channels].
    at = (tl.program_id(0) * n + which) * n_channels + c
    tl.store(parts + at, tl.sum(values, 0), mask=c < n_channels)


@triton.jit
def sum_parts(parts, which: tl.constexpr, n: tl.constexpr, n_parts, c, n_channels):
    # In one order: the same bits every time.
    total = tl.zeros((CHANNELS,), parts.dtype.element_ty)
    for start in range(0, n_parts, ROWS):
        p = start + tl.arange(0, ROWS)
        total += tl.sum(read(parts, p * n + which, p < n_parts, c, n_channels), 0)
    return total
