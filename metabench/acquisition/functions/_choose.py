"""What acquisitions share: taking the best that are left, and distances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def best(values: Tensor, taken: Tensor, b: int) -> Tensor:
    """Return the b highest of values [M] that are not taken; of equals the first, as a pool is shuffled."""
    left = values.clamp(min=torch.finfo(values.dtype).min).masked_fill(taken, -torch.inf)
    return left.sort(descending=True, stable=True).indices[:b]


def in_turn(pick: Callable[[int, Tensor, Tensor], Tensor], taken: Tensor, b: int) -> Tensor:
    """Pick b, one after another.

    Args:
        pick: (number, whether each is taken by now [M], those picked so far [number]) -> the next.
    """
    picks = torch.zeros(0, dtype=torch.int64, device=taken.device)
    for number in range(b):
        one = pick(number, taken, picks).reshape(1)
        picks, taken = torch.cat([picks, one]), taken.scatter(0, one, torch.ones_like(taken[:1]))
    return picks


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2 of rows [n, F] and [m, F]: [n, m]."""
    squares = x.square().sum(-1)[:, None] + y.square().sum(-1)
    return (squares - 2 * x @ y.T).clamp(min=0)
