"""Activation checkpointing: steps are computed again in the backward pass; their inputs alone are kept.

torch.utils.checkpoint does not work under torch.func; this does, under vmap(grad(.)) and first derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from metabench.core import trees


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function of trees of tensors, of which a backward pass needs the inputs alone.

    Args:
        function: takes all tensors that it uses as arguments, and returns a tree of tensors.
    """

    def checkpointed(*arguments: Any) -> Any:
        leaves, form = trees.flatten(arguments)
        form_of_outputs: Any = None

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            nonlocal form_of_outputs
            outputs, form_of_outputs = trees.flatten(function(*trees.unflatten(list(leaves), form)))
            return tuple(outputs)

        outputs = _Checkpoint.apply(flat, *leaves)
        return trees.unflatten(list(outputs), form_of_outputs)

    return checkpointed


class _Checkpoint(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], *leaves: Tensor) -> tuple[Tensor, ...]:
        return function(*leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = dict(enumerate(ctx.saved_tensors))
        floats = {place: leaf for place, leaf in leaves.items() if leaf.is_floating_point()}

        def of_floats(*values: Tensor) -> tuple[Tensor, ...]:
            outputs: tuple[Tensor, ...] = ctx.function(
                *(leaves | dict(zip(floats, values, strict=True))).values()
            )
            return outputs

        # Without no_grad, torch.func.grad records this pass as well, and keeps all of it.
        with torch.no_grad():
            pull = vjp(of_floats, *floats.values())[1]
            slopes = dict(zip(floats, pull(gradients), strict=True))
        return None, *(slopes.get(place) for place in leaves)
