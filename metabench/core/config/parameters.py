"""What may stand where a search chooses: a range, choices, or a constant; and when it is asked for."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from metabench.core.config.base import Model, Scalar
from metabench.core.config.task import Between

Bound = Annotated[int | float, Field(ge=-1e18, le=1e18)]

When = dict[str, Scalar | list[Scalar]]
WHEN = Field(None, description="only sampled when these other hyperparameters have these values")


class Range(Model):
    """Numbers between two bounds; whole numbers when both bounds are whole and the setting is."""

    low: Bound
    high: Bound
    log: bool = Field(False, description="sample the logarithm uniformly")
    step: int | float | None = Field(None, gt=0, le=1e18, description="grid spacing; not with log")
    default: int | float = Field(description="published value, tried first")
    when: When | None = WHEN

    @model_validator(mode="after")
    def _bounds(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low={self.low}, high={self.high}: the range is empty; low must be < high")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low}: must be > 0 where log is true")
        if self.log and self.step is not None:
            raise ValueError("step: not allowed where log is true")
        if not self.low <= self.default <= self.high:
            raise ValueError(f"default={self.default}: must lie in [{self.low}, {self.high}]")
        return self


class Choices(Model):
    """One of a few values."""

    choices: list[Scalar] = Field(min_length=1)
    default: Scalar = Field(description="published value, tried first")
    when: When | None = WHEN

    @model_validator(mode="after")
    def _default_is_a_choice(self) -> Choices:
        if self.default not in self.choices:
            raise ValueError(f"default={self.default!r}: must be one of {self.choices}")
        return self


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<choices>" if "choices" in value else "<range>"
    return next((tag for tag, kind in KINDS.items() if isinstance(value, kind)), "<constant>")


KINDS: dict[str, type[Model]] = {"<range>": Range, "<choices>": Choices, "<between>": Between}

Parameter = Annotated[
    Annotated[Range, Tag("<range>")]
    | Annotated[Choices, Tag("<choices>")]
    | Annotated[Scalar, Tag("<constant>")],
    Discriminator(_kind),
]
"""A range, a list of choices, or a constant."""

Sampled = Annotated[
    Annotated[Range, Tag("<range>")] | Annotated[Choices, Tag("<choices>")], Discriminator(_kind)
]
"""A range or a list of choices."""


def wanted(parameter: Any) -> Mapping[str, list[Any]]:
    """Return the values that a parameter's `when` allows, by the parameter that must have one of them."""
    when = getattr(parameter, "when", None) or {}
    return {key: value if isinstance(value, list) else [value] for key, value in when.items()}


def is_active(parameter: Any, values: Mapping[str, Any]) -> bool:
    """Say whether a parameter's `when` holds among the values settled so far."""
    return all(values.get(key) in allowed for key, allowed in wanted(parameter).items())


def in_order(parameters: Mapping[str, Any]) -> list[str]:
    """List parameters, each after those that its `when` names; raises CycleError where that cannot be."""
    graph = {name: [key for key in wanted(one) if key in parameters] for name, one in parameters.items()}
    return list(graphlib.TopologicalSorter(graph).static_order())
