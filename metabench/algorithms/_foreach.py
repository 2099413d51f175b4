"""Arithmetic of lists of tensors: one kernel for many where torch has it, one for each under torch.func."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Operation = Callable[..., list[Tensor]]
"""(list, lists or numbers) -> list."""


# Where a release of torch has moved this, one tensor after another is right everywhere.
_level: Any = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", lambda: 1)


def _of(name: str) -> Operation:
    one, many = getattr(torch, name), getattr(torch, f"_foreach_{name}")

    def apply(first: list[Tensor], *others: Any) -> list[Tensor]:
        if _level() is None:
            return list(many(first, *others))
        columns = [other if isinstance(other, list) else [other] * len(first) for other in others]
        return [one(*each) for each in zip(first, *columns, strict=True)]

    return apply


add, div, mul, sqrt, sub = map(_of, ("add", "div", "mul", "sqrt", "sub"))
