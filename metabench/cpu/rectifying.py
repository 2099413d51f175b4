"""Normalisation and ReLU as one step, block after block, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metabench.cpu.kernels import Found, blocks, channels_last, image, wide
from metabench.steps import Norm


def rectify(x: Tensor, norm: Norm) -> Tensor:
    """Normalise, scale and shift, channel by channel, and let no pixel be negative."""
    whole = image(x, *x.shape)
    _, factor, shift = norm.line()
    for at in blocks(x, x.shape[1]):
        torch.addcmul(wide(shift), x[at], wide(factor), out=whole[at]).relu_()
    return whole


def rectify_grad(g: Tensor, rectified: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, scale, shift, mean and var."""
    found = Found(len(x))
    root, factor, _ = norm.line()
    for at in blocks(x, x.shape[1]):
        passed = torch.ops.aten.threshold_backward(channels_last(g[at]), rectified[at], 0)
        found.add("by x", (passed * x[at]).sum((0, 2, 3)))
        found.add("by 1", passed.sum((0, 2, 3)))
        found.put("x", at, passed.mul_(wide(factor)))
    by_x, by_1 = found.whole["by x"], found.whole["by 1"]
    of_factor = by_x - norm.mean * by_1
    of_var = of_factor * norm.scale * root**3 * -0.5
    return found.whole["x"], of_factor * root, by_1, -factor * by_1, of_var


def rectify_grad_grad(
    h_x: Tensor | None, h: Sequence[Tensor | None], g: Tensor, rectified: Tensor, x: Tensor, norm: Norm
) -> tuple[Tensor | None, ...]:
    """Return what `rectify_grad` passes on to g, x, scale, mean and var.

    Args:
        h: gradients of what it returned for scale, shift, mean and var.
    """
    found = Found(len(x))
    root, factor, _ = norm.line()
    h_scale, h_shift, h_mean, h_var = (torch.zeros_like(root) if one is None else one for one in h)
    # All that is returned for channels is by_x * turn + by_1 * (push - mean * turn).
    turn = h_scale * root - h_var * norm.scale * root**3 * 0.5
    push = h_shift - h_mean * factor
    for at in blocks(x, x.shape[1]):
        passed = torch.ops.aten.threshold_backward(channels_last(g[at]), rectified[at], 0)
        found.add("by x", (passed * x[at]).sum((0, 2, 3)))
        found.add("by 1", passed.sum((0, 2, 3)))
        of_g = torch.addcmul(wide(push - norm.mean * turn), x[at], wide(turn))
        if h_x is not None:
            found.add("by h", (passed * h_x[at]).sum((0, 2, 3)))
            of_g.addcmul_(channels_last(h_x[at]), wide(factor))
        found.put("g", at, torch.ops.aten.threshold_backward(channels_last(of_g), rectified[at], 0))
        found.put("x", at, passed.mul_(wide(turn)))
    by_x, by_1 = found.whole["by x"], found.whole["by 1"]
    of_turn = by_x - norm.mean * by_1
    of_factor = found.whole.get("by h", 0) - h_mean * by_1
    of_root = norm.scale * of_factor + of_turn * (h_scale - h_var * norm.scale * root**2 * 1.5)
    of_scale = root * of_factor - h_var * root**3 * 0.5 * of_turn
    return found.whole["g"], found.whole["x"], of_scale, -turn * by_1, of_root * root**3 * -0.5
