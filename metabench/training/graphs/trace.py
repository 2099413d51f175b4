"""Operations recorded once and replayed, without what composing them anew costs.

Nested vmap and grad pass every operation through several interpreters, in Python. What is left at the end is
a list of plain operations that depends on shapes and settings only; running it gives the same numbers. On a
CUDA device the list becomes a graph, which the device runs on its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from metabench.training.graphs.cuda import Room, capture

PAYS_AFTER = {"cpu": 60.0, "cuda": 3.0}
"""Seconds that a function must have taken before it is recorded: recording takes some, too.

A GPU waits for the composing of operations most of the time.
"""


class Tape:
    """What one run has recorded."""

    def __init__(self, pays_after: float | None = None) -> None:
        """Begin with nothing; record after so many seconds, or after those of `PAYS_AFTER`."""
        self.pays_after = pays_after
        self.seconds: dict[Hashable, float] = {}
        self.fits = sys.maxsize  # the most tasks that were found to fit in memory at once
        self.recorded: dict[Hashable, Callable[..., Any]] = {}
        self.room: Room | None = None  # in which all graphs work

    def run(self, name: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args), replayed if it has been recorded for arguments of this form.

        Args:
            name: tells apart what is no argument; under one name and form a function does one and the same.
            args: nested containers of tensors, the same at each call but for the numbers in the tensors.
        """
        leaves = tree_leaves(args)
        form = tuple((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves)
        key, kind = (name, form), leaves[0].device.type
        found = self.recorded.get(key)
        pays_after = PAYS_AFTER.get(kind, PAYS_AFTER["cpu"]) if self.pays_after is None else self.pays_after
        if found is None and self.seconds.get(key, 0.0) >= pays_after:
            found = self.recorded[key] = self._recorded(function, args, leaves[0].device)
        if found is not None:
            with torch.no_grad():
                return found(*args)
        begun = time.perf_counter()
        result = function(*args)
        self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - begun
        return result

    def _recorded(
        self, function: Callable[..., Any], args: tuple[Any, ...], device: torch.device
    ) -> Callable[..., Any]:
        operations = record(function, *args)
        if device.type != "cuda":
            return operations
        self.room = self.room or Room(device)
        graph = capture(operations, args, self.room)
        if graph is None:
            self.room = None
        return graph or operations


def record(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Run a function once and return the plain operations that it came down to."""
    graph = make_fx(function)(*args)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
