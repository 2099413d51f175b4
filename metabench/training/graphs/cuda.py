"""Functions of tensors as CUDA graphs: one call starts all their kernels, without Python in between."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten


class Room:
    """Memory that graphs of one device work in, one after another, and the stream that captures them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            self.stream = torch.cuda.Stream()

    def leave(self) -> None:
        """Let the allocator know that a capture broke off; the room is not to be used again."""
        with contextlib.suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(self.device.index, self.pool)


WARM_UPS = 2
"""Calls before a capture, in which kernels are compiled and libraries allocate their workspaces."""


class Captured:
    """A function captured for arguments of one form: shapes, strides, types and device."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], room: Room) -> None:
        """Capture a function of nested containers of tensors on one CUDA device; it must not wait for it.

        Args:
            room: that other graphs may have, too, as the results of each are copied at once.
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
            room.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(room.stream):
                for _ in range(WARM_UPS):
                    function(*arguments)
            torch.cuda.current_stream().wait_stream(room.stream)
            with torch.cuda.graph(self.graph, pool=room.pool, stream=room.stream):
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


def capture(function: Callable[..., Any], args: tuple[Any, ...], room: Room) -> Callable[..., Any] | None:
    """Return a function captured for arguments like these, or nothing, and a warning, where it cannot be."""
    try:
        return Captured(function, args, room)
    except RuntimeError as error:  # a graph keeps memory of its own, which may be more than there is
        room.leave()
        logging.getLogger(__name__).warning(
            "steps are replayed one operation after another, which is slower: no CUDA graph of them can be "
            "captured: %s",
            error,
        )
        return None
