"""Functions of tensors as CUDA graphs: one call starts all their kernels, without Python in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

WARM_UPS = 2
"""Calls before a capture, in which kernels are compiled and libraries allocate their workspaces."""


class Captured:
    """A function captured for arguments of one form: shapes, strides, types and device."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], pool: Any = None) -> None:
        """Capture a function of nested containers of tensors on one CUDA device; it must not wait for it.

        Args:
            pool: of another's memory. As results are copied at once, graphs of one stream may share theirs.
        """
        leaves, form = tree_flatten(args)
        self.device = leaves[0].device
        self.given = [like(leaf) for leaf in leaves]
        arguments = tree_unflatten(
            [mine.expand(leaf.shape) for mine, leaf in zip(self.given, leaves, strict=True)], form
        )
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.no_grad():
            self._take(leaves)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    function(*arguments)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self.graph, pool=pool):
                self.found = function(*arguments)

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns for these arguments."""
        with torch.cuda.device(self.device), torch.no_grad():
            self._take(tree_leaves(args))
            self.graph.replay()
            return tree_map(torch.clone, self.found)

    def _take(self, leaves: list[Tensor]) -> None:
        torch._foreach_copy_(self.given, [once(leaf) for leaf in leaves])


def once(leaf: Tensor) -> Tensor:
    """Return a tensor without what `expand` repeats."""
    repeated = [stride == 0 and size > 1 for size, stride in zip(leaf.shape, leaf.stride(), strict=True)]
    return leaf[tuple(slice(0, 1) if again else slice(None) for again in repeated)] if any(repeated) else leaf


def like(leaf: Tensor) -> Tensor:
    """Return memory that lies as what `once` returns."""
    single = once(leaf)
    return torch.empty_strided(single.shape, single.stride(), dtype=leaf.dtype, device=leaf.device)


def capture(function: Callable[..., Any], args: tuple[Any, ...], pool: Any = None) -> Callable[..., Any]:
    """Return a function captured for arguments like these, or itself, and a warning, where it cannot be."""
    try:
        return Captured(function, args, pool)
    except RuntimeError as error:  # a graph keeps memory of its own, which may be more than there is
        logging.getLogger(__name__).warning(
            "steps are replayed one operation after another, which is slower: no CUDA graph of them can be "
            "captured: %s",
            error,
        )
        return function
