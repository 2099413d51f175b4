"""Convolution, batch moments and max pooling as one step, fast under vmap on a CPU to the second derivative.

The step, its gradient and its gradient's gradient are three operators. Their vmap rule moves the tasks into
the channels, so that what runs at last is a few grouped, channels-last kernels over all tasks at once; the
rules of torch leave that layout and take far slower kernels. The operators are registered with the dispatcher
itself, because a `torch.autograd.Function` costs milliseconds a call under nested torch.func transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

functorch: Any = torch._C._functorch
_LIBRARY = torch.library.Library("metabench", "DEF")
_OPS = torch.ops.metabench


def _step(x: Tensor, weight: Tensor, scale: Tensor, groups: int, has_moments: bool) -> tuple[Tensor, ...]:
    y = _conv(x, weight, groups)
    mean, var = _moments(y) if has_moments else (y.new_zeros(y.shape[1]), y.new_zeros(y.shape[1]))
    if (scale >= 0).all():
        pooled, where = F.max_pool2d(y, 2, return_indices=True)
    else:
        pooled, where = F.max_pool2d(y * _sign(scale), 2, return_indices=True)
        pooled.mul_(_sign(scale))
    return y, pooled, mean, var, where


def _step_grad(
    g_y: Tensor | None,
    g_pooled: Tensor | None,
    slope: Tensor | None,
    offset: Tensor | None,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    where: Tensor,
    groups: int,
    needs_x: bool,
) -> tuple[Tensor | None, ...]:
    # The gradients of mean and var come as the line `slope * y + offset` that they add to the gradient of y.
    g = torch.zeros_like(y) if g_pooled is None else _scatter(g_pooled, y, where)
    if slope is not None and offset is not None:
        g.addcmul_(y, slope[:, None, None]).add_(offset[:, None, None])
    if g_y is not None:
        g.add_(g_y)
    return g, _conv_weight(x, g, groups), _conv(g, _flip(weight, groups), groups) if needs_x else None


def _step_grad_grad(
    h_weight: Tensor | None,
    h_x: Tensor | None,
    slope: Tensor | None,
    x: Tensor,
    weight: Tensor,
    y: Tensor,
    where: Tensor,
    g: Tensor,
    groups: int,
    needs_x: bool,
) -> tuple[Tensor | None, ...]:
    h = torch.zeros_like(y) if h_weight is None else _conv(x, h_weight, groups)
    d_weight = d_x = None
    if h_x is not None:
        h.add_(_conv(h_x, weight, groups))
        d_weight = _conv_weight(h_x, g, groups)
    if h_weight is not None and needs_x:
        d_x = _conv(g, _flip(h_weight, groups), groups)
    d_pooled = _gather(h, where)
    if slope is None:
        return h, d_pooled, None, None, d_x, d_weight, None
    d_slope, d_offset = (h * y).sum((0, 2, 3)), h.sum((0, 2, 3))
    return h, d_pooled, d_slope, d_offset, d_x, d_weight, h * slope[:, None, None]


class _Step(_SingleLevelFunction):
    # What torch.func makes of a torch.autograd.Function anew at every call and level, made once.
    # Gradients are enabled for the levels below this one.

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, groups: int, has_moments: bool) -> Any:
        with torch.enable_grad(), torch._C._AutoDispatchBelowAutograd():
            y, pooled, mean, var, where = _OPS.step(x, weight, scale, groups, has_moments)
        ctx.mark_non_differentiable(*((where,) if has_moments else (mean, var, where)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, y, mean, where)
        ctx.groups = groups
        return y, pooled, mean, var, where

    @staticmethod
    def backward(ctx: Any, g_y: Any, g_pooled: Any, g_mean: Any, g_var: Any, _: Any) -> Any:
        x, weight, y, mean, where = ctx.saved_tensors
        slope = offset = None
        if g_mean is not None or g_var is not None:
            n = y.numel() / y.shape[1]
            slope = torch.zeros_like(mean) if g_var is None else g_var * (2 / n)
            offset = -mean * slope if g_mean is None else g_mean / n - mean * slope
        needs_x = ctx.needs_input_grad[0]
        _, g_weight, g_x = _OPS.step_grad(
            g_y, g_pooled, slope, offset, x, weight, y, where, ctx.groups, needs_x
        )
        return g_x, g_weight, None, None, None


class _StepGrad(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        with torch.enable_grad(), torch._C._AutoDispatchBelowAutograd():
            outputs = _OPS.step_grad(*inputs)
        ctx.mark_non_differentiable(outputs[0])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[2], *inputs[4:8], outputs[0])
        ctx.groups = inputs[8]
        return outputs

    @staticmethod
    def backward(ctx: Any, _: Any, h_weight: Any, h_x: Any) -> Any:
        needs = ctx.needs_input_grad
        grads = _OPS.step_grad_grad(h_weight, h_x, *ctx.saved_tensors, ctx.groups, needs[4])
        return *(g if need else None for g, need in zip(grads, needs, strict=False)), None, None, None


class _StepGradGrad(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        with torch.enable_grad(), torch._C._AutoDispatchBelowAutograd():
            return _OPS.step_grad_grad(*inputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("conv_pool has no third derivative")


Axes = tuple[int, ...]


def _register(
    name: str, arguments: str, kernel: Callable[..., Any], function: Any, given: Axes, out: Axes
) -> None:
    # The axes are those of the channels, where the tasks go, in each tensor given and returned.
    _LIBRARY.define(f"{name}({arguments}) -> ({', '.join(['Tensor'] * len(out))})")

    def autograd(*inputs: Any) -> Any:
        with enable_single_level_autograd_function():
            return function.apply(*inputs)

    _LIBRARY.impl(name, kernel, "CPU")
    _LIBRARY.impl(name, autograd, "Autograd")
    _LIBRARY.impl(name, partial(_batched, getattr(_OPS, name).default, given, out), "FuncTorchBatched")


def _batched(operator: Callable[..., Any], given: Axes, out: Axes, *inputs: Any) -> Any:
    *tensors, groups, flag = inputs
    level = functorch.maybe_current_level()
    pairs: list[Any] = [(None, None) if t is None else functorch._unwrap_batched(t, level) for t in tensors]
    n_tasks = next((t.shape[dim] for t, dim in pairs if dim is not None), None)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)):
        if n_tasks is None:
            return operator(*inputs)
        merged = [_merge(t, dim, n_tasks, axis) for (t, dim), axis in zip(pairs, given, strict=True)]
        outputs = operator(*merged, groups * n_tasks, flag)
        split = [
            None if t is None else t.unflatten(a, (n_tasks, -1)) for t, a in zip(outputs, out, strict=True)
        ]
    wrap = functorch._add_batch_dim
    return tuple(None if t is None else wrap(t, axis, level) for t, axis in zip(split, out, strict=True))


def _merge(x: Tensor | None, dim: int | None, n_tasks: int, axis: int) -> Tensor | None:
    # A view, if the tensor came out of one of these operators or out of elementwise work on such a one.
    if x is None:
        return None
    if dim is None:
        x = x.unsqueeze(axis).expand(*x.shape[:axis], n_tasks, *x.shape[axis:])
    else:
        x = x.movedim(dim, axis)
    return x.flatten(axis, axis + 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _conv(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    return F.conv2d(_channels_last(x), weight, padding=1, groups=groups)


def _flip(weight: Tensor, groups: int) -> Tensor:
    # The filters that take the gradient of a convolution's output to that of its input.
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)


def _conv_weight(x: Tensor, g: Tensor, groups: int) -> Tensor:
    weight = x.new_empty(g.shape[1], x.shape[1] // groups, 3, 3)
    geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], groups)
    return torch.ops.aten.convolution_backward(
        _channels_last(g), _channels_last(x), weight, None, *geometry, [False, True, False]
    )[1]


def _sign(scale: Tensor) -> Tensor:
    return torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)[:, None, None]


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    # Two plain passes: torch's own one-pass variance takes many times longer on a CPU.
    mean = y.mean((0, 2, 3))
    return mean, (y - mean[:, None, None]).square_().mean((0, 2, 3))


def _scatter(pooled: Tensor, y: Tensor, where: Tensor) -> Tensor:
    geometry = ([2, 2], [2, 2], [0, 0], [1, 1], False)
    return torch.ops.aten.max_pool2d_with_indices_backward(_channels_last(pooled), y, *geometry, where)


def _gather(y: Tensor, where: Tensor) -> Tensor:
    rows = where.permute(0, 2, 3, 1)
    pooled = y.permute(0, 2, 3, 1).flatten(1, 2).gather(1, rows.flatten(1, 2))
    return pooled.unflatten(1, rows.shape[1:3]).permute(0, 3, 1, 2)


_register(
    "step",
    "Tensor x, Tensor w, Tensor scale, int groups, bool has_moments",
    _step,
    _Step,
    (1, 0, 0),
    (1, 1, 0, 0, 1),
)
_register(
    "step_grad",
    "Tensor? g_y, Tensor? g_pooled, Tensor? slope, Tensor? offset, "
    "Tensor x, Tensor w, Tensor y, Tensor where, int groups, bool needs_x",
    _step_grad,
    _StepGrad,
    (1, 1, 0, 0, 1, 0, 1, 1),
    (1, 0, 1),
)
_register(
    "step_grad_grad",
    "Tensor? h_weight, Tensor? h_x, Tensor? slope, "
    "Tensor x, Tensor w, Tensor y, Tensor where, Tensor g, int groups, bool needs_x",
    _step_grad_grad,
    _StepGradGrad,
    (0, 1, 0, 1, 0, 1, 1, 1),
    (1, 1, 0, 0, 1, 0, 1),
)
