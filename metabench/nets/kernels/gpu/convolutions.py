"""Convolutions 3 x 3 over many small sets of filters at once, as products of patches and filters.

Each group of channels has filters of its own: images are [n, G * C, H, W], and filters
[G * C_out, C_in, 3, 3] lie channels last, as [G * C_out, 9, C_in].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from metabench.core import device
from metabench.nets.kernels.cpu import kernels
from metabench.nets.kernels.cpu.kernels import channels_last, image
from metabench.nets.kernels.gpu import rows

PROGRAMS = 512
"""As many as a sum over pixels is split into at least, so that no multiprocessor is idle."""

FEWEST = 256
"""Pixels that are worth a program of their own in such a sum."""


WARPS = 8
"""Of a program: fewer do not have the registers for three products in tf32."""


class Blocks(NamedTuple):
    """Of pixels, channels out, and columns of patches, that one program multiplies at a time."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int


def blocks(n_in: int, n_out: int) -> Blocks:
    """Return blocks for filters of a size: powers of two of at least 16, as matrix units want them."""
    few = 9 * n_in if n_in < 16 else n_in  # so few channels share a block with those of other places
    return Blocks(
        64, *(min(max(16, triton.next_power_of_2(n)), most) for n, most in ((n_out, 64), (few, 32)))
    )


def convolve(
    x: Tensor, filters: Tensor, groups: int, is_back: bool = False, onto: Tensor | None = None
) -> Tensor:
    """Convolve images [n, G * C_in, H, W], zero-padded to the same size; the result lies channels last.

    Args:
        is_back: x is the gradient of a convolution's output by these filters; return that of its input.
        onto: an image, channels last, to which the result is added.
    """
    if not _is_ours(x):
        result = kernels.convolve(x, kernels.flip(filters, groups) if is_back else filters, groups)
        return channels_last(result) if onto is None else onto.add_(result)  # torch's lie as they like
    x, filters = channels_last(x), channels_last(filters)
    n, channels, height, width = x.shape
    n_in, n_out = channels // groups, filters.shape[1] if is_back else len(filters) // groups
    y = image(x, n, groups * n_out, height, width) if onto is None else onto
    size = blocks(n_in, n_out)
    n_pixels = n * height * width
    grid = (triton.cdiv(n_pixels, size.BLOCK_M), groups, triton.cdiv(n_out, size.BLOCK_N))
    geometry = (n_pixels, height, width, groups, n_in, n_out, is_back, onto is not None)
    rows.launch(_convolve, grid, x, filters, y, *geometry, _precision(), **size._asdict(), num_warps=WARPS)
    return y


def correlate(x: Tensor, g: Tensor, groups: int) -> Tensor:
    """Return the gradient of filters from images and the gradient of a convolution's output."""
    if not _is_ours(x):
        return kernels.correlate(x, g, groups)
    x, g = channels_last(x), channels_last(g)
    n, channels, height, width = x.shape
    n_in, n_out, n_pixels = channels // groups, g.shape[1] // groups, n * height * width
    size = blocks(n_in, n_out)._replace(BLOCK_M=32)  # pixels are summed over: more take registers alone
    grid = (triton.cdiv(9 * n_in, size.BLOCK_K), groups * triton.cdiv(n_out, size.BLOCK_N))
    splits = max(1, min(PROGRAMS // (grid[0] * grid[1]), n_pixels // FEWEST))
    n_of_split = triton.cdiv(triton.cdiv(n_pixels, splits), size.BLOCK_M) * size.BLOCK_M
    parts = x.new_empty(splits, groups * n_out, 3, 3, n_in)
    geometry = (n_pixels, height, width, groups, n_of_split, n_in, n_out)
    rows.launch(
        _correlate, (*grid, splits), x, g, parts, *geometry, _precision(), **size._asdict(), num_warps=WARPS
    )
    whole = parts[0] if splits == 1 else parts.sum(0)  # in one order: the same bits every time
    return whole.permute(0, 3, 1, 2)


def _is_ours(x: Tensor) -> bool:
    # Matrix units take no float64; torch's own convolutions do.
    return x.dtype == torch.float32 or not x.is_cuda


def _precision() -> str:
    # Three products in tf32 are about as exact as one in float32, and faster.
    return "tf32x3" if device.is_exact() else "tf32"


@triton.jit
def _taps(block, n_in: tl.constexpr, BLOCK_K: tl.constexpr):
    # Which of the 3 x 3 places, and which channel, each of BLOCK_K columns of patches is.
    if n_in % BLOCK_K == 0:  # one place serves the whole block, and its channels lie side by side
        n_blocks: tl.constexpr = n_in // BLOCK_K
        place = tl.full((1,), block // n_blocks, tl.int32)
        channel = block % n_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    else:
        column = block * BLOCK_K + tl.arange(0, BLOCK_K)
        place, channel = column // n_in, column % n_in
    return place, channel


@triton.jit
def _patches(x, m, place, channel, group, n_pixels, height, width, groups, n_in: tl.constexpr):
    # [BLOCK_M, BLOCK_K] of the patches around pixels m, zero beyond the image.
    down, right = place[None, :] // 3 - 1, place[None, :] % 3 - 1
    row, column = ((m // width) % height)[:, None] + down, (m % width)[:, None] + right
    is_in = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    is_in = is_in & (m < n_pixels)[:, None] & (place < 9)[None, :]
    pixel = m.to(tl.int64)[:, None] + down * width + right
    return tl.load(x + pixel * (groups * n_in) + (group * n_in + channel)[None, :], mask=is_in, other=0.0)


@rows.sized
def _convolve(
    x,
    filters,
    y,
    n_pixels,
    height,
    width,
    groups,
    n_in: tl.constexpr,
    n_out: tl.constexpr,
    IS_BACK: tl.constexpr,
    IS_SUM: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # IS_BACK: filters are [G * n_in, 9, n_out], and take a gradient back
    # IS_SUM: add to what y holds
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    group = tl.program_id(1)
    out = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    to = y + m.to(tl.int64)[:, None] * (groups * n_out) + (group * n_out + out)[None, :]
    is_to = (m < n_pixels)[:, None] & (out < n_out)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), y.dtype.element_ty)
    if IS_SUM:
        total += tl.load(to, mask=is_to, other=0.0)
    for block in range((9 * n_in + BLOCK_K - 1) // BLOCK_K):
        place, channel = _taps(block, n_in, BLOCK_K)
        patches = _patches(x, m, place, channel, group, n_pixels, height, width, groups, n_in)
        if IS_BACK:
            at = ((group * n_in + channel) * 9 + 8 - place)[:, None] * n_out + out[None, :]
        else:
            at = (place * n_in + channel)[:, None] + (group * n_out + out)[None, :] * (9 * n_in)
        is_at = (place < 9)[:, None] & (out < n_out)[None, :]
        weights = tl.load(filters + at, mask=is_at, other=0.0)
        total = tl.dot(patches, weights, total, input_precision=PRECISION, out_dtype=y.dtype.element_ty)
    tl.store(to, total, mask=is_to)


@rows.sized
def _correlate(
    x,
    g,
    parts,
    n_pixels,
    height,
    width,
    groups,
    n_of_split,
    n_in: tl.constexpr,
    n_out: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # parts [splits, G * n_out, 9, n_in]
    place, channel = _taps(tl.program_id(0), n_in, BLOCK_K)
    n_blocks: tl.constexpr = (n_out + BLOCK_N - 1) // BLOCK_N
    group = tl.program_id(1) // n_blocks
    out = tl.program_id(1) % n_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(2) * n_of_split
    total = tl.zeros((BLOCK_N, BLOCK_K), parts.dtype.element_ty)
    for start in range(first, tl.minimum(first + n_of_split, n_pixels), BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        patches = _patches(x, m, place, channel, group, n_pixels, height, width, groups, n_in)
        at = m.to(tl.int64)[:, None] * (groups * n_out) + (group * n_out + out)[None, :]
        back = tl.load(g + at, mask=(m < n_pixels)[:, None] & (out < n_out)[None, :], other=0.0)
        total = tl.dot(
            tl.trans(back), patches, total, input_precision=PRECISION, out_dtype=parts.dtype.element_ty
        )
    row = (tl.program_id(2) * groups + group) * n_out + out
    at = row[:, None] * (9 * n_in) + (place * n_in + channel)[None, :]
    tl.store(parts + at, total, mask=(out < n_out)[:, None] & (place < 9)[None, :])
