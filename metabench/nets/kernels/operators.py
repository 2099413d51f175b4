"""Convolution, moments and pooling as one step; scale, shift and ReLU as another: fast under vmap.

A step, its gradient and its gradient's gradient are three operators. Their vmap rule moves the tasks into
the channels, so that what runs at last is a few grouped, channels-last kernels over all tasks at once; the
rules of torch leave that layout and take far slower kernels. The operators are registered with the dispatcher
itself, because a `torch.autograd.Function` costs milliseconds a call under nested torch.func transforms.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

from metabench.nets.kernels import cpu, types

functorch: Any = torch._C._functorch
_LIBRARY = torch.library.Library("metabench", "DEF")
_OPS = torch.ops.metabench


def _below(name: str, *inputs: Any) -> Any:
    # Gradients are enabled for the levels below this one.
    with torch.enable_grad(), torch._C._AutoDispatchBelowAutograd():
        return getattr(_OPS, name)(*inputs)


# What torch.func makes of a torch.autograd.Function anew at every call and level, made once:


class _Step(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, *flags: Any) -> Any:
        ctx.groups, has_moments, keep = flags
        keep = keep or any(ctx.needs_input_grad[:2])
        y, pooled, moments, where = _below("step", x, weight, scale, ctx.groups, has_moments, keep)
        ctx.mark_non_differentiable(*((where,) if has_moments else (moments, where)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, y, moments, where)
        return y, pooled, moments, where

    @staticmethod
    def backward(ctx: Any, g_y: Any, g_pooled: Any, g_moments: Any, _: Any) -> Any:
        inputs = (g_y, g_pooled, g_moments, *ctx.saved_tensors, ctx.groups, ctx.needs_input_grad[0])
        g_weight, g_x = _OPS.step_grad(*inputs)
        return g_x, g_weight, None, None, None, None


class _StepGrad(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:8])
        ctx.groups = inputs[8]
        return _below("step_grad", *inputs)

    @staticmethod
    def backward(ctx: Any, h_weight: Any, h_x: Any) -> Any:
        needs = ctx.needs_input_grad
        grads = _OPS.step_grad_grad(h_weight, h_x, *ctx.saved_tensors, ctx.groups, needs[3])
        return *(g if need else None for g, need in zip(grads, needs, strict=False)), None, None, None


class _Rectify(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        rectified = _below("rectify", *inputs)
        x, scale, _, moments, ctx.groups = inputs
        ctx.save_for_backward(rectified, x, scale, moments)
        return rectified

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return *_OPS.rectify_grad(g, *ctx.saved_tensors, ctx.groups), None


class _RectifyGrad(_SingleLevelFunction):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        outputs = _below("rectify_grad", *inputs)
        ctx.set_materialize_grads(False)
        g, *rectified, ctx.groups = inputs
        ctx.save_for_backward(g, *outputs[1:3], *rectified)
        return outputs

    @staticmethod
    def backward(ctx: Any, *h: Any) -> Any:
        g, x, scale, moments = _OPS.rectify_grad_grad(*h, *ctx.saved_tensors, ctx.groups)
        return g, None, x, scale, moments, None


def _last(name: str) -> Any:
    class Last(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            return _below(name, *inputs)

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise NotImplementedError(f"{name}: there is no third derivative")

    return Last


def failure(device: torch.device) -> str | None:
    """Say why the operators do not run on a device; None where they do."""
    if device.type == "cpu":
        return None
    return _trial(device) if device.type in ("cuda", "meta") else "there are none"


def _trial(device: torch.device) -> str | None:
    try:
        # Another thread knows nothing of the transforms that this one may be in.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(_try_kernels, device).result()
    except torch.OutOfMemoryError:
        raise  # there may be memory later, or for fewer tasks
    except Exception as error:  # noqa: BLE001  Triton's are of many kinds: no compiler, no space on disk
        return f"{type(error).__name__}: {error}"
    return None


def _try_kernels(device: torch.device) -> None:
    one = torch.ones(1, 1, 3, 3, device=device)
    expected = torch.full_like(one, 4)
    expected[..., 1, :] = expected[..., :, 1] = 6
    expected[..., 1, 1] = 9
    output = _gpu().convolve(one, one, 1)
    if device.type != "meta" and not torch.equal(output, expected):
        raise RuntimeError(f"a convolution gives {output.tolist()} for {expected.tolist()}")


def _gpu() -> Any:
    from metabench.nets.kernels import gpu  # where it is used alone: importing Triton takes a while

    return gpu


WAYS: dict[str, Callable[[], Any]] = {"CPU": lambda: cpu, "CUDA": _gpu, "Meta": _gpu}
"""What computes on a type of device, by torch's name of its dispatch key."""

IMAGES = {"x", "y", "g", "pooled", "where", "rectified", "g_y", "g_pooled", "h_x"}
"""Tensors whose channels, where the tasks go, are the second axis; they are the first of all others."""


def _register(name: str, arguments: str, outputs: str, kernel: Callable[..., Any], function: Any) -> None:
    # The kernel is called with what computes on a type of device, then the arguments.
    typed = [argument.split() for argument in arguments.split(", ")]
    tensors = [one for kind, one in typed if kind.startswith("Tensor")]
    axes = [[int(one in IMAGES) for one in names] for names in (tensors, outputs.split())]
    _LIBRARY.define(f"{name}({arguments}) -> ({', '.join(['Tensor'] * len(axes[1]))})")

    def autograd(*inputs: Any) -> Any:
        with enable_single_level_autograd_function():
            return function.apply(*inputs)

    for key in WAYS:
        _LIBRARY.impl(name, lambda *inputs, key=key: kernel(WAYS[key](), *inputs), key)
    _LIBRARY.impl(name, autograd, "Autograd")
    _LIBRARY.impl(name, partial(_batched, getattr(_OPS, name).default, *axes), "FuncTorchBatched")


def _batched(operator: Callable[..., Any], axes: list[int], axes_out: list[int], *inputs: Any) -> Any:
    tensors, (groups, *flags) = inputs[: len(axes)], inputs[len(axes) :]
    level = functorch.maybe_current_level()
    pairs: list[Any] = [(None, None) if t is None else functorch._unwrap_batched(t, level) for t in tensors]
    n_tasks = next((t.shape[dim] for t, dim in pairs if dim is not None), None)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)):
        if n_tasks is None:
            return operator(*inputs)
        merged = [_merge(t, dim, n_tasks, axis) for (t, dim), axis in zip(pairs, axes, strict=True)]
        outputs = operator(*merged, groups * n_tasks, *flags)
        is_one = isinstance(outputs, Tensor)
        columns = zip((outputs,) if is_one else outputs, axes_out, strict=True)
        split = [(None if t is None else t.unflatten(axis, (n_tasks, -1)), axis) for t, axis in columns]
    wrapped = [None if t is None else functorch._add_batch_dim(t, axis, level) for t, axis in split]
    return wrapped[0] if is_one else tuple(wrapped)


def _merge(x: Tensor | None, dim: int | None, n_tasks: int, axis: int) -> Tensor | None:
    # A view, if the tensor came out of one of these operators or out of elementwise work on such a one.
    if x is None:
        return None
    if dim is None:
        x = (x.unsqueeze(axis) if axis else x).expand(*x.shape[:axis], n_tasks, *x.shape[axis:])
    else:
        x = x if dim == axis else x.movedim(dim, axis)
    return x.flatten(axis, axis + 1)


_STEP = (
    "Tensor? g_y, Tensor? g_pooled, Tensor? g_moments, "
    "Tensor x, Tensor w, Tensor y, Tensor moments, Tensor where, int groups, bool needs_x"
)
_RECTIFIED = "Tensor rectified, Tensor x, Tensor scale, Tensor moments, int groups"

_register(
    "step",
    "Tensor x, Tensor w, Tensor scale, int groups, bool has_moments, bool keep",
    "y pooled moments where",
    lambda way, *inputs: way.step(*inputs),
    _Step,
)
_register(
    "step_grad",
    _STEP,
    "w x",
    lambda way, *inputs: way.step_grad(types.Gradients(*inputs[:3]), types.Saved(*inputs[3:])),
    _StepGrad,
)
_register(
    "step_grad_grad",
    f"Tensor? h_w, Tensor? h_x, {_STEP}",
    "g_y g_pooled g_moments x w y moments",
    lambda way, *inputs: way.step_grad_grad(
        *inputs[:2], types.Gradients(*inputs[2:5]), types.Saved(*inputs[5:])
    ),
    _last("step_grad_grad"),
)
_register(
    "rectify",
    "Tensor x, Tensor scale, Tensor shift, Tensor moments, int groups",
    "rectified",
    lambda way, *inputs: way.rectify(*inputs[:-1]),
    _Rectify,
)
_register(
    "rectify_grad",
    f"Tensor g, {_RECTIFIED}",
    "x scale shift moments",
    lambda way, g, *inputs: way.rectify_grad(g, types.Rectified(*inputs[:-1])),
    _RectifyGrad,
)
_register(
    "rectify_grad_grad",
    "Tensor? h_x, Tensor? h_scale, Tensor? h_shift, Tensor? h_moments, "
    f"Tensor g, Tensor of_scale, Tensor of_shift, {_RECTIFIED}",
    "g x scale moments",
    lambda way, *inputs: way.rectify_grad_grad(
        inputs[:4], types.Passed(*inputs[4:7]), types.Rectified(*inputs[7:-1])
    ),
    _last("rectify_grad_grad"),
)
