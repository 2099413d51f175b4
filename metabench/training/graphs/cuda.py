"""Functions of tensors as CUDA graphs: one call starts all their kernels, without Python in between."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabench.core import trees


class GraphPool:
    """Memory that graphs of one device work in, one after another, and the stream that captures them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.handle = torch.cuda.graph_pool_handle()
            self.stream = torch.cuda.Stream()

    def leave(self) -> None:
        """Let the allocator know that a capture broke off; the pool is not to be used again."""
        with contextlib.suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self.device.index, self.handle)


WARM_UPS = 2
"""Calls before a capture, in which kernels are compiled and libraries allocate their workspaces."""


class Captured:
    """A function captured for arguments of one form: shapes, strides, types and device."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], pool: GraphPool) -> None:
        """Capture a function of nested containers of tensors on one CUDA device; it must not wait for it.

        Args:
            pool: that other graphs may have, too, as the results of each are copied at once.
        """
        leaves, form = trees.flatten(args)
        self.device = leaves[0].device
        self.static_inputs = [empty_like_strided(leaf) for leaf in leaves]
        expanded = [
            static.expand(leaf.shape) for static, leaf in zip(self.static_inputs, leaves, strict=True)
        ]
        arguments = trees.unflatten(expanded, form)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.no_grad():
            self._copy_in(leaves)
            pool.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(pool.stream):
                for _ in range(WARM_UPS):
                    function(*arguments)
            torch.cuda.current_stream().wait_stream(pool.stream)
            with torch.cuda.graph(self.graph, pool=pool.handle, stream=pool.stream):
                self.static_outputs, self.form = trees.flatten(function(*arguments))

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns for these arguments."""
        with torch.cuda.device(self.device), torch.no_grad():
            self._copy_in(trees.flatten(args)[0])
            self.graph.replay()
            return trees.unflatten([leaf.clone() for leaf in self.static_outputs], self.form)

    def _copy_in(self, leaves: list[Tensor]) -> None:
        torch._foreach_copy_(self.static_inputs, [drop_expanded(leaf) for leaf in leaves])


def drop_expanded(leaf: Tensor) -> Tensor:
    """Return a tensor without what `expand` repeats."""
    is_repeated = [stride == 0 and size > 1 for size, stride in zip(leaf.shape, leaf.stride(), strict=True)]
    return (
        leaf[tuple(slice(0, 1) if one else slice(None) for one in is_repeated)] if any(is_repeated) else leaf
    )


def empty_like_strided(leaf: Tensor) -> Tensor:
    """Return memory that lies as what `drop_expanded` returns."""
    single = drop_expanded(leaf)
    return torch.empty_strided(single.shape, single.stride(), dtype=leaf.dtype, device=leaf.device)


def capture(
    function: Callable[..., Any], args: tuple[Any, ...], pool: GraphPool
) -> Callable[..., Any] | None:
    """Return a function captured for arguments like these, or nothing, and a warning, where it cannot be."""
    try:
        return Captured(function, args, pool)
    except RuntimeError as error:  # a graph keeps memory of its own, which may be more than there is
        pool.leave()
        logging.getLogger(__name__).warning(
            "steps are replayed one operation after another, which is slower: no CUDA graph of them can be "
            "captured: %s",
            error,
        )
        return None
