"""Normalisation and ReLU as one step, block after block, and its gradients.

With r = 1 / sqrt(var + epsilon), a pixel x becomes max((x - mean) * scale * r + shift, 0).
"""

from __future__ import annotations

import torch
from torch import Tensor

from metabench.nets.kernels.cpu.kernels import Gathered, blocks, channels_last, image, wide
from metabench.nets.kernels.types import EPSILON, Passed, Rectified, Tensors


def rectify(x: Tensor, scale: Tensor, shift: Tensor, moments: Tensor) -> Tensor:
    """Normalise, scale and shift, channel by channel, and let no pixel be negative."""
    whole = image(x, *x.shape)
    mean, var = moments.unbind(1)
    factor = _root(var).mul_(scale)
    offset = torch.addcmul(shift, mean, factor, value=-1)
    for at in blocks(x, x.shape[1]):
        torch.addcmul(wide(offset), x[at], wide(factor), out=whole[at]).relu_()
    return whole


def rectify_grad(g: Tensor, rectified: Rectified) -> Tensors:
    """Return the gradients of x, scale, shift and moments."""
    images, x, scale, moments = rectified
    gathered = Gathered(len(x))
    mean, var = moments.unbind(1)
    root = _root(var)
    factor = scale * root
    for at in blocks(x, x.shape[1]):
        passed = torch.ops.aten.threshold_backward(channels_last(g[at]), images[at], 0)
        gathered.add("by x", (passed * x[at]).sum((0, 2, 3)))
        gathered.add("by 1", passed.sum((0, 2, 3)))
        gathered.put("x", at, passed.mul_(wide(factor)))
    by_1 = gathered.whole["by 1"]
    of_scale = torch.addcmul(gathered.whole["by x"], mean, by_1, value=-1).mul_(root)
    of_var = (of_scale * factor).mul_(root.mul_(0.5))
    return gathered.whole["x"], of_scale, by_1, torch.stack([factor.mul_(by_1), of_var], 1).neg_()


def rectify_grad_grad(h: Tensors, passed: Passed, rectified: Rectified) -> Tensors:
    """Return what `rectify_grad` passes on to g, x, scale and moments, from the gradients of its results."""
    h_x, h_scale, h_shift, h_moments = h
    images, x, scale, moments = rectified
    gathered = Gathered(len(x))
    mean, var = moments.unbind(1)
    h_mean, h_var = (torch.zeros_like(moments) if h_moments is None else h_moments).unbind(1)
    root = _root(var)
    factor, by_var = scale * root, h_var * root.square()
    # All that is returned for channels moves with the sum of what passes by turn * (x - mean) + push.
    turn, of_root = (by_var * factor).mul_(-0.5), (by_var * scale).mul_(-1.5)
    if h_scale is not None:
        turn.addcmul_(h_scale, root)
        of_root.add_(h_scale)
    push = (h_mean * factor).addcmul_(mean, turn).neg_()
    if h_shift is not None:
        push.add_(h_shift)
    for at in blocks(x, x.shape[1]):
        of_x = torch.ops.aten.threshold_backward(channels_last(passed.g[at]), images[at], 0)
        of_g = torch.addcmul(wide(push), x[at], wide(turn))
        if h_x is not None:
            gathered.add("by h", (of_x * h_x[at]).sum((0, 2, 3)))
            of_g.addcmul_(channels_last(h_x[at]), wide(factor))
        gathered.put("g", at, torch.ops.aten.threshold_backward(channels_last(of_g), images[at], 0))
        gathered.put("x", at, of_x.mul_(wide(turn)))
    of_turn = passed.of_scale / root
    by_h = torch.zeros_like(mean) if h_x is None else gathered.whole["by h"]
    of_factor = by_h.addcmul_(h_mean, passed.of_shift, value=-1)
    of_root.mul_(of_turn).addcmul_(scale, of_factor)
    of_scale = of_factor.addcmul_(by_var, of_turn, value=-0.5).mul_(root)
    of_var = of_root.mul_(root.pow_(3)).mul_(-0.5)
    of_moments = torch.stack([turn.mul_(passed.of_shift).neg_(), of_var], 1)
    return gathered.whole["g"], gathered.whole["x"], of_scale, of_moments


def _root(var: Tensor) -> Tensor:
    return (var + EPSILON).rsqrt_()
