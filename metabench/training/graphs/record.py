"""What a function of tensors comes down to: a list of plain operations, written out as one Python function.

It is taken down while the function runs, so that recording costs little more than running it once; or twice,
where it makes tensors of lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from metabench.core import trees

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default}
"""Operations by which Python learns what is in a tensor, and may go another way."""


class DependsOnData(RuntimeError):
    """A function asks what is in its arguments, so that it is another one for others."""


class Recording(NamedTuple):
    """A recorded function of nested containers of tensors, and of how many operations it is."""

    replay: Callable[..., list[Tensor]]
    form: Any  # of what it returns
    n_operations: int

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns for these arguments."""
        return trees.unflatten(self.replay(*trees.flatten(args)[0]), self.form)


def record(function: Callable[..., Any], *args: Any) -> tuple[Any, Recording]:
    """Run a function; return its result, and the operations that it came down to.

    Raises:
        DependsOnData: where Python decides by what is in an argument, or makes a constant of it; and where
            one tensor stands in two places, which may hold others later.
    """
    leaves, form = trees.flatten(args)
    if len({id(leaf) for leaf in leaves}) < len(leaves):
        raise DependsOnData("one tensor is two arguments")
    taken = _Operations(leaves)
    with taken:
        result = function(*args)
    if taken.makes_constants:
        # A tensor made of a list may have been made of an argument's numbers, which no operation tells.
        others = [leaf * 1.25 + 0.125 if leaf.is_floating_point() else leaf for leaf in leaves]
        again = _Operations(others)
        with again:
            function(*trees.unflatten(others, form))
        if not taken.is_as(again):
            raise DependsOnData("a constant is made of what is in an argument")
    outputs, form = trees.flatten(result)
    lines = taken.needed(outputs)
    return result, Recording(taken.compiled(lines, outputs), form, len(lines))


class _Line(NamedTuple):
    target: str  # the variables that it sets
    sets: list[str]
    call: str
    uses: list[str]
    is_mutable: bool


class _Operations(TorchDispatchMode):
    """Takes down all operations, by the names of the tensors that they take and make."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.names = WeakTensorKeyDictionary()
        self.dependent: set[str] = set()  # names of what depends on the inputs
        self.constants: dict[str, Any] = {"nan": math.nan, "inf": math.inf}
        self.lines: list[_Line] = []
        self.inputs = [f"i{number}" for number in range(len(inputs))]
        self.functions: dict[Any, str] = {}
        self.n_names = 0
        self.makes_constants = False
        self.dependent.update(self.inputs)
        for leaf, name in zip(inputs, self.inputs, strict=True):
            self.names[leaf] = name

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; torch would import its compiler, which takes seconds.
        return False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        uses: list[str] = []
        taken = [self._text(arg, uses) for arg in args]
        taken += [f"{key}={self._text(value, uses)}" for key, value in (kwargs or {}).items()]
        is_dependent = not self.dependent.isdisjoint(uses)
        if is_dependent and function in READS:
            raise DependsOnData(f"{function} asks what is in an argument")
        result = function(*args, **(kwargs or {}))
        sets: list[str] = []
        target = self._target(result, sets)
        if sets or function._schema.is_mutable:
            if is_dependent:
                self.dependent.update(sets)
            if function not in self.functions:
                self.functions[function] = self._constant(function)
            call = f"{self.functions[function]}({', '.join(taken)})"
            if function is torch.ops.aten.lift_fresh.default:  # anew each time, as it may be changed in place
                self.makes_constants = True
                call = f"{taken[0]}.clone()"
            self.lines.append(_Line(target, sets, call, uses, function._schema.is_mutable))
        return result

    def is_as(self, other: _Operations) -> bool:
        """Tell whether the same was taken down, constants and all."""
        if self.lines != other.lines or self.constants.keys() != other.constants.keys():
            return False
        pairs = ((value, other.constants[name]) for name, value in self.constants.items())
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a is b or a == b for a, b in pairs)

    def _new(self, letter: str) -> str:
        self.n_names += 1
        return f"{letter}{self.n_names}"

    def _constant(self, value: Any) -> str:
        name = self._new("k")
        self.constants[name] = value
        return name

    def _text(self, value: Any, uses: list[str]) -> str:
        if isinstance(value, Tensor):
            name = self.names.get(value)
            if name is None:  # made before, and no argument: it stays what it is
                name = self.names[value] = self._constant(value)
            uses.append(name)
            return str(name)
        if isinstance(value, list | tuple):
            texts = "".join(f"{self._text(one, uses)}, " for one in value)
            return f"[{texts}]" if isinstance(value, list) else f"({texts})"
        if value is None or type(value) in (bool, int, float):
            return repr(value)
        return self._constant(value)

    def _target(self, result: Any, sets: list[str]) -> str:
        if isinstance(result, Tensor):
            name = self.names[result] = self._new("v")
            sets.append(name)
            return name
        if isinstance(result, list | tuple):
            return "".join(f"{self._target(one, sets)}, " for one in result) or "_"
        return "_"

    def needed(self, outputs: Sequence[Tensor]) -> list[_Line]:
        """Return the operations that the outputs depend on, and those that change a tensor in place."""
        wanted = {self._text(leaf, []) for leaf in outputs}
        kept = []
        for line in reversed(self.lines):
            if line.is_mutable or not wanted.isdisjoint(line.sets):
                wanted.update(line.uses)
                kept.append(line)
        return kept[::-1]

    def compiled(self, lines: Sequence[_Line], outputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
        """Write operations out as a function, which lets go of each tensor after its last use."""
        results = [self._text(leaf, []) for leaf in outputs]
        used = {*results, *self.inputs, *self.constants}
        text: list[str] = []
        for line in reversed(lines):
            last = {*line.uses, *line.sets} - used
            used |= last
            text += [f"  del {', '.join(sorted(last))}"] if last else []
            text.append(f"  {line.target} = {line.call}")
        whole = [f"def replay({', '.join(self.inputs)}):", *text[::-1], f"  return [{', '.join(results)}]"]
        names = dict(self.constants)
        exec(compile("\n".join(whole), "<recorded>", "exec"), names)
        replay: Callable[..., list[Tensor]] = names["replay"]
        return replay
