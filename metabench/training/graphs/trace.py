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

from metabench.core import trees
from metabench.training.graphs.cuda import GraphPool, capture

TRACE_AFTER_SECONDS = {"cpu": 60.0, "cuda": 3.0}
"""What a function must have taken before it is recorded: recording takes some, too.

A GPU waits for the composing of operations most of the time.
"""


class TraceCache:
    """What one run has recorded."""

    def __init__(self, trace_after: float | None = None) -> None:
        """Begin with nothing; record after so many seconds, or after those of `TRACE_AFTER_SECONDS`."""
        self.trace_after = trace_after
        self.seconds: dict[Hashable, float] = {}
        self.max_tasks_in_memory = sys.maxsize  # at once, of what has been tried
        self.recorded: dict[Hashable, Callable[..., Any]] = {}
        self.pool: GraphPool | None = None  # in which all graphs work

    def run(self, name: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args), replayed if it has been recorded for arguments of this form.

        Args:
            name: tells apart what is no argument; under one name and form a function does one and the same.
            args: nested containers of tensors, the same at each call but for the numbers in the tensors.
        """
        leaves, _ = trees.flatten(args)
        device = leaves[0].device
        key = name, tuple((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves)
        trace_after = self.trace_after
        if trace_after is None:
            trace_after = TRACE_AFTER_SECONDS.get(device.type, TRACE_AFTER_SECONDS["cpu"])
        if key not in self.recorded and self.seconds.get(key, 0.0) >= trace_after:
            self.recorded[key] = self._record(function, args, device)
        if key in self.recorded:
            with torch.no_grad():
                return self.recorded[key](*args)
        begun = time.perf_counter()
        result = function(*args)
        self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - begun
        return result

    def _record(
        self, function: Callable[..., Any], args: tuple[Any, ...], device: torch.device
    ) -> Callable[..., Any]:
        operations = record(function, *args)
        if device.type != "cuda":
            return operations
        self.pool = self.pool or GraphPool(device)
        graph = capture(operations, args, self.pool)
        if graph is None:
            self.pool = None
        return graph or operations


def record(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """Run a function once and return the plain operations that it came down to."""
    graph = make_fx(function)(*args)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
