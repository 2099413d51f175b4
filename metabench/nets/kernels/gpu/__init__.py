"""The arithmetic of `operators` on a GPU: the same steps as those of `cpu`, as Triton kernels.

Nothing here waits for the device, so that all of it can be captured in a CUDA graph.
"""

from __future__ import annotations

from torch import Tensor

from metabench.nets.kernels.cpu.kernels import image
from metabench.nets.kernels.gpu import pooling
from metabench.nets.kernels.gpu.convolutions import convolve, correlate
from metabench.nets.kernels.gpu.rectifying import rectify, rectify_grad, rectify_grad_grad
from metabench.nets.kernels.types import Gradients, Saved, Tensors

__all__ = ["convolve", "rectify", "rectify_grad", "rectify_grad_grad", "step", "step_grad", "step_grad_grad"]


def step(
    x: Tensor, weight: Tensor, scale: Tensor, groups: int, has_moments: bool, keep: bool
) -> tuple[Tensor, ...]:
    """Do as `cpu.step`; where is a place in a window, 0 to 3."""
    y = convolve(x, weight, groups)
    pooled, where, moments = pooling.pool(y, scale, has_moments)
    return y if has_moments and keep else image(y, 0, *y.shape[1:]), pooled, moments, where


def step_grad(gradients: Gradients, saved: Saved) -> Tensors:
    """Return the gradients of weight and x."""
    g = pooling.spread(gradients, saved)
    of_x = convolve(g, saved.weight, saved.groups, is_back=True) if saved.needs_x else None
    return correlate(saved.x, g, saved.groups), of_x


def step_grad_grad(
    h_weight: Tensor | None, h_x: Tensor | None, gradients: Gradients, saved: Saved
) -> Tensors:
    """Return what `step_grad` passes on to the gradients of all that a step returned, and what it saved."""
    x, weight, *_, groups, needs_x = saved
    h = None if h_weight is None else convolve(x, h_weight, groups)
    if h_x is not None:
        h = convolve(h_x, weight, groups, onto=h)
    if h is None:
        return (None,) * 7
    of_pooled, of_g_moments, of_y, of_moments = pooling.gather(h, gradients, saved)
    of_x = of_weight = None
    if h_x is not None or (needs_x and h_weight is not None):
        g = pooling.spread(gradients, saved)  # cheaper to put together anew than to keep
        of_weight = None if h_x is None else correlate(h_x, g, groups)
        if needs_x and h_weight is not None:
            of_x = convolve(g, h_weight, groups, is_back=True)
    return (
        None if gradients.y is None else h,
        None if gradients.pooled is None else of_pooled,
        of_g_moments,
        of_x,
        of_weight,
        of_y,
        of_moments,
    )
