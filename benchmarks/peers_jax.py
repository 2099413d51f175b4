"""The same meta-gradient in JAX, jit of vmap of grad: an outside reference, of another compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-5


def prepare(threads: int) -> None:
    """Keep JAX to as many threads, and to the GPU memory that it needs; before it is imported."""
    os.environ["JAX_ENABLE_X64"] = "1"  # for what is float64; the rest stays float32
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def _outputs(weights: list[Any], x: Any) -> Any:
    """Run Conv4: convolution, batch norm by the batch's own moments, ReLU, pooling; and a head."""
    import jax
    from jax import lax

    for block in range(4):
        kernel, scale, shift = weights[3 * block : 3 * block + 3]
        x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW"))
        mean = x.mean((0, 2, 3), keepdims=True)
        var = ((x - mean) ** 2).mean((0, 2, 3), keepdims=True)
        x = (x - mean) * lax.rsqrt(var + EPSILON) * scale[:, None, None] + shift[:, None, None]
        x = lax.reduce_window(jax.nn.relu(x), -float("inf"), lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return x.reshape(len(x), -1) @ weights[-2].T + weights[-1]


def _loss(weights: list[Any], x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    log_chances = jax.nn.log_softmax(_outputs(weights, x))
    return -jnp.take_along_axis(log_chances, y[:, None], 1).mean()


def _adapted(weights: list[Any], x: Any, y: Any, steps: int, rate: float, is_second: bool) -> list[Any]:
    import jax

    for _ in range(steps):
        slopes = jax.grad(_loss)(weights, x, y)
        if not is_second:
            slopes = jax.lax.stop_gradient(slopes)
        weights = [w - rate * g for w, g in zip(weights, slopes, strict=True)]
    return weights


def train(
    weights: list[Tensor], tasks: tuple[Tensor, ...], steps: int, rate: float, is_second: bool
) -> Callable[[], list[Tensor]]:
    """Return a call that computes the mean meta-gradient, compiled."""
    import jax

    def one(weights: list[Any], sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        return _loss(_adapted(weights, sx, sy, steps, rate, is_second), qx, qy)

    def all_of(weights: list[Any], *tasks: Any) -> list[Any]:
        gradients = jax.vmap(jax.grad(one), in_axes=(None, 0, 0, 0, 0))(weights, *tasks)
        return [leaf.mean(0) for leaf in gradients]

    return _call(jax.jit(all_of), weights, tasks)


def evaluate(
    weights: list[Tensor], tasks: tuple[Tensor, ...], steps: int, rate: float
) -> Callable[[], list[Tensor]]:
    """Return a call that adapts and predicts, compiled."""
    import jax

    def one(weights: list[Any], sx: Any, sy: Any, qx: Any, qy: Any) -> Any:
        return _outputs(_adapted(weights, sx, sy, steps, rate, False), qx)

    def all_of(weights: list[Any], *tasks: Any) -> list[Any]:
        return [jax.vmap(one, in_axes=(None, 0, 0, 0, 0))(weights, *tasks)]

    return _call(jax.jit(all_of), weights, tasks)


def _call(compiled: Any, weights: list[Tensor], tasks: tuple[Tensor, ...]) -> Callable[[], list[Tensor]]:
    import jax
    import numpy as np

    arrays = [jax.numpy.asarray(leaf.detach().cpu().numpy()) for leaf in (*weights, *tasks)]
    mine, theirs = arrays[: len(weights)], arrays[len(weights) :]
    return lambda: [torch.from_numpy(np.array(leaf)) for leaf in compiled(mine, *theirs)]
