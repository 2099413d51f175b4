"""Operations recorded once and replayed, without what composing them anew costs.

Nested vmap and grad pass every operation through several interpreters, in Python. What is left at the end is
a list of plain operations that depends on shapes and settings only; running it gives the same numbers. On a
CUDA device the list becomes a graph, which the device runs on its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from metabench.core import device as memory
from metabench.core import trees
from metabench.nets import layers
from metabench.training.graphs.cuda import GraphPool, capture
from metabench.training.graphs.record import DependsOnData, Recording, record

CAPTURE_AFTER = 10
"""Calls after which recorded operations are captured on a GPU: that takes some, and memory."""

MOST_OPERATIONS = 200_000
"""Recorded operations that are kept, of 200 bytes each; a step of MAML is some thousand."""

MOST_GRAPHS = 16
"""CUDA graphs that are kept, each with memory for what it takes and returns."""


class Numbers:
    """The numbers in settings and schedules, apart from what operations depend on.

    A setting that is 0 is off, so that it is no number; a schedule's 0 is one.
    """

    def __init__(self, h: Any, schedule: Any = None) -> None:
        """Take apart a dataclass of settings, and a nested container."""
        self._h = h
        fields = () if h is None else dataclasses.fields(h)
        self._settings = [(field.name, getattr(h, field.name)) for field in fields]
        leaves, self._form = trees.flatten(schedule)
        values = [value for _, value in self._settings]
        self._is_number = [type(value) is float and value != 0 for value in values]
        self._is_number += [type(leaf) is float for leaf in leaves]
        self._leaves = values + leaves
        pairs = list(zip(self._leaves, self._is_number, strict=True))
        self.values = tuple(leaf for leaf, is_number in pairs if is_number)
        rest = tuple(None if is_number else (leaf,) for leaf, is_number in pairs)
        self.static: Hashable = type(h), rest, self._form

    def on(self, like: Tensor) -> Tensor:
        """Return the numbers as one row of a tensor's type, on its device."""
        return memory.to_device_async(torch.tensor(self.values, dtype=like.dtype), like.device)

    def filled(self, row: Tensor) -> tuple[Any, Any]:
        """Return settings and schedule with the elements of such a row in place of the numbers."""
        numbers = iter(row.unbind())
        leaves = [
            next(numbers) if is_number else leaf
            for leaf, is_number in zip(self._leaves, self._is_number, strict=True)
        ]
        n_settings = len(self._settings)
        changed = {
            name: leaf
            for (name, before), leaf in zip(self._settings, leaves[:n_settings], strict=True)
            if leaf is not before
        }
        h = dataclasses.replace(self._h, **changed) if changed else self._h
        return h, trees.unflatten(leaves[n_settings:], self._form)


class TraceCache:
    """What a process has recorded, for whichever run comes next."""

    def __init__(self, capture_after: int = CAPTURE_AFTER, most_operations: int = MOST_OPERATIONS) -> None:
        """Begin with nothing."""
        self.capture_after = capture_after
        self.most_operations = most_operations
        self.recorded: OrderedDict[Hashable, _Entry | None] = OrderedDict()  # None: it cannot be
        self.n_composed = 0
        self.fits: dict[Hashable, int] = {}  # name -> tasks at once that memory has room for
        self.pool: GraphPool | None = None  # in which all graphs work

    def run(self, name: Hashable, function: Callable[..., Any], *args: Any) -> Any:
        """Return function(*args), replayed if it has been recorded for arguments of this form.

        Args:
            name: tells apart what is no argument; under one name and form a function does one and the same.
            args: nested containers of tensors, the same at each call but for the numbers in the tensors.
        """
        leaves, _ = trees.flatten(args)
        device = leaves[0].device
        forms = tuple((leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves)
        key = name, forms, layers.has_kernels(device)
        entry = self.recorded.get(key)
        # A profile tells the parts of a step apart, which a recording does not.
        is_profiled = torch._C._autograd._profiler_enabled()
        if entry is not None and not is_profiled:
            self.recorded.move_to_end(key)
            return self._replay(entry, args, device)
        self.n_composed += 1
        if key not in self.recorded and not is_profiled:
            # The second of what torch's own control flow raises where operations are taken down.
            with contextlib.suppress(DependsOnData, NotImplementedError):
                result, operations = record(function, *args)
                self._keep(key, operations)
                return result
            self.recorded[key] = None
        return function(*args)

    def _keep(self, key: Hashable, operations: Recording) -> None:
        self.recorded[key] = _Entry(operations)
        while len(self.recorded) > 1 and self.n_operations() > self.most_operations:
            self.recorded.popitem(last=False)

    def n_operations(self) -> int:
        """Count the operations that are kept."""
        return sum(entry.operations.n_operations for entry in self.recorded.values() if entry is not None)

    def _replay(self, entry: _Entry, args: tuple[Any, ...], device: torch.device) -> Any:
        if device.type == "cuda" and entry.n_replays == self.capture_after:
            self._make_room()
            entry.graph = self.captured(entry.operations.__call__, args, device)
        entry.n_replays += 1
        with torch.no_grad():
            return (entry.graph or entry.operations)(*args)

    def _make_room(self) -> None:
        captured = [
            entry for entry in self.recorded.values() if entry is not None and entry.graph is not None
        ]
        for entry in captured[: max(0, len(captured) - MOST_GRAPHS + 1)]:
            entry.graph, entry.n_replays = None, 0

    def captured(
        self, operations: Callable[..., Any], args: tuple[Any, ...], device: torch.device
    ) -> Callable[..., Any] | None:
        """Capture operations as a CUDA graph, or return nothing where that fails."""
        self.pool = self.pool or GraphPool(device)
        graph = capture(operations, args, self.pool)
        if graph is None:
            self.pool = None
        return graph


@dataclasses.dataclass
class _Entry:
    operations: Recording
    graph: Callable[..., Any] | None = None
    n_replays: int = 0
