"""Steps that are computed again in the backward pass, so that only their inputs stay in memory.

torch.utils.checkpoint does not work under torch.func; this does, under vmap(grad(.)) and first derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.utils._pytree import tree_flatten, tree_unflatten


def steps(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function of trees of tensors, of which a backward pass needs the inputs alone.

    Args:
        function: takes all tensors that it uses as arguments, and returns a tree of tensors.
    """

    def again(*trees: Any) -> Any:
        leaves, given = tree_flatten(trees)
        returned: Any = None

        def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
            nonlocal returned
            found, returned = tree_flatten(function(*tree_unflatten(list(leaves), given)))
            return tuple(found)

        outputs = _Again.apply(flat, *leaves)
        return tree_unflatten(list(outputs), returned)

    return again


class _Again(torch.autograd.Function):
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
        leaves = ctx.saved_tensors
        places = [place for place, leaf in enumerate(leaves) if leaf.is_floating_point()]
        # Without no_grad, torch.func.grad records this pass as well, and keeps all of it.
        with torch.no_grad():
            pull = vjp(_of_floats(ctx.function, leaves, places), *(leaves[place] for place in places))[1]
            found = dict(zip(places, pull(gradients), strict=True))
        return None, *(found.get(place) for place in range(len(leaves)))


def _of_floats(
    function: Callable[..., tuple[Tensor, ...]], leaves: Sequence[Tensor], places: Sequence[int]
) -> Callable[..., tuple[Tensor, ...]]:
    def of_floats(*floats: Tensor) -> tuple[Tensor, ...]:
        changed = dict(zip(places, floats, strict=True))
        return function(*(changed.get(place, leaf) for place, leaf in enumerate(leaves)))

    return of_floats
