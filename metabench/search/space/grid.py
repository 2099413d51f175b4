"""The values that one parameter of a space may have: how many, which, and where one of them stands."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Iterator
from fractions import Fraction
from typing import Any

from metabench.core.config import Choices, Range

CLOSE = Fraction("1e-8")
"""How far from a value of a grid, in steps, a number may be for the rounding of floats."""

MOST = 10**9
"""Values of a grid: beyond, floats cannot tell neighbours apart, and nobody would call it one."""


def typed(parameter: Any, kind: type | None) -> Any:
    """Write the numbers of a parameter as floats where its setting is one."""
    if kind is not float:
        return parameter
    if isinstance(parameter, Range):
        step = None if parameter.step is None else float(parameter.step)
        bounds = {key: float(getattr(parameter, key)) for key in ("low", "high", "default")}
        return parameter.model_copy(update={**bounds, "step": step})
    if isinstance(parameter, Choices):
        choices = [float(choice) for choice in parameter.choices]
        return parameter.model_copy(update={"choices": choices, "default": float(parameter.default)})
    return float(parameter)


def _step(parameter: Range) -> Fraction | None:
    if parameter.step is None and isinstance(parameter.low, int) and isinstance(parameter.high, int):
        return Fraction(1)
    return None if parameter.step is None else _exact(parameter.step)


def _exact(number: float) -> Fraction:
    """Return a number as it is written, so that 0.3 is three steps of 0.1."""
    return Fraction(str(number))


def count(parameter: Range | Choices) -> float:
    """Count the values; infinity for a continuous range."""
    if isinstance(parameter, Choices):
        return len(parameter.choices)
    step = _step(parameter)
    return math.inf if step is None else int((_exact(parameter.high) - _exact(parameter.low)) // step) + 1


def at(parameter: Range | Choices, place: int) -> Any:
    """Return the value at a place, from 0, of a parameter that has a grid or choices."""
    if isinstance(parameter, Choices):
        return parameter.choices[place]
    return type(parameter.low)(_exact(parameter.low) + place * (_step(parameter) or 0))


def at_share(parameter: Range | Choices, share: float) -> Any:
    """Return the value below which a share, from 0 and below 1, of all values lie."""
    n_values = count(parameter)
    if isinstance(parameter, Range) and parameter.log:
        low, high = math.log(parameter.low), math.log(parameter.high)
        value = min(max(math.exp(low + share * (high - low)), parameter.low), parameter.high)
        return value if n_values == math.inf else round(value)
    if isinstance(parameter, Range) and n_values == math.inf:
        return parameter.low + share * (parameter.high - parameter.low)
    return at(parameter, min(int(share * n_values), int(n_values) - 1))


def share_of(parameter: Range, value: float) -> float:
    """Return which share of a range lies below a value, of its logarithm where `log`."""
    low, high = float(parameter.low), float(parameter.high)
    if parameter.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def place(parameter: Any, value: Any) -> Hashable | None:
    """Say where a value stands, the number itself in a continuous range; None where it cannot be."""
    if not isinstance(parameter, Range):
        choices = parameter.choices if isinstance(parameter, Choices) else [parameter]
        same = (
            k
            for k, choice in enumerate(choices)
            if (type(choice) is bool, choice) == (type(value) is bool, value)
        )
        return next(same, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    step = _step(parameter)
    if step is None:
        return value if parameter.low <= value <= parameter.high else None
    exact = (_exact(value) - _exact(parameter.low)) / step
    is_value = abs(exact - round(exact)) <= CLOSE and 0 <= round(exact) < count(parameter)
    return round(exact) if is_value else None


def near(parameter: Range | Choices, value: Any, rng: random.Random) -> Iterator[Any]:
    """Yield all values, those nearest to one of them first; of a continuous range it, then any number."""
    n_values = count(parameter)
    if isinstance(parameter, Range) and n_values == math.inf:
        yield value
        low, high = parameter.low, parameter.high
        while True:
            drawn = (
                math.exp(rng.uniform(math.log(low), math.log(high)))
                if parameter.log
                else rng.uniform(low, high)
            )
            yield min(max(drawn, low), high)
    start: Any = place(parameter, value) or 0
    for away in range(int(n_values)):
        for there in (start - away, start + away)[: 1 + (away > 0)]:
            if 0 <= there < n_values:
                yield at(parameter, there)


def problems(parameter: Any, where: str) -> list[str]:
    """Say which values can never be, and which stand twice."""
    if isinstance(parameter, Choices):
        counted = Counter((type(one) is bool, one) for one in parameter.choices)
        twice = [repr(one) for (_, one), n_times in counted.items() if n_times > 1]
        return (
            [f"{where}.choices: {', '.join(twice)} stands more than once; name each choice once"]
            if twice
            else []
        )
    if not isinstance(parameter, Range) or parameter.step is None:
        return []
    low, high, default = parameter.low, parameter.high, parameter.default
    grid, last = f"low={low} by step={parameter.step}", at(parameter, int(count(parameter)) - 1)
    wrong = []
    if count(parameter) > MOST:
        return [f"{where}.step={parameter.step}: makes more than {MOST:,} values; raise it, or leave it out"]
    if place(parameter, high) is None:
        wrong.append(
            f"{where}.high={high}: is not reached from {grid}; the last value is {last}: write it as high"
        )
    if place(parameter, default) is None:
        below = int((_exact(default) - _exact(low)) // _exact(parameter.step))
        beside = [at(parameter, k) for k in (below, below + 1) if k < count(parameter)]
        wrong.append(
            f"{where}.default={default}: is none of the values from {grid}; "
            f"take {' or '.join(map(str, beside))}, or another step"
        )
    return wrong
