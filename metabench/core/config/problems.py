"""What is wrong with what a user wrote, one line each, with the nearest valid name."""

from __future__ import annotations

import difflib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ValidationError

from metabench.core import MetabenchError
from metabench.core.config import space
from metabench.core.config.task import Between

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
KINDS: dict[str, type[BaseModel]] = {**space.KINDS, "<between>": Between}
SCALARS = {
    "bool": "a number, a word, true or false",  # the first member of a union
    "int": "a finite number",
    "<count>": "a whole number, or a range: 3-10 as a flag, {low: 3, high: 10} in a file",
}
LIMITS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
"""Of pydantic's types of errors, those that tell best themselves what is allowed."""

TAGS = {*KINDS, "<constant>", "<count>", "bool", "int", "float", "str"}
"""Pydantic's names of a union's members."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for a typo, or ''."""
    close = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def allowed(name: str, names: Iterable[str]) -> str:
    """Return the nearest name to one that is unknown, if any is near, and all that are allowed."""
    return f"{nearest(name, names)} Allowed: {', '.join(names)}"


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn pydantic's errors into one line each: where, what was given, what is allowed."""
    lines: dict[str, str] = {}  # by place: a union reports each of its members
    for item in error.errors():
        path = [str(part) for part in item["loc"] if part not in TAGS]
        where = ".".join(path)
        if item["type"] == "extra_forbidden":
            line = f"{where}: unknown key.{allowed(path[-1], _holder(model, item['loc']).model_fields)}"
        elif item["type"] == "missing":
            line = f"{where}: missing"
        elif item["type"] == "value_error":
            line = f"{where}: {item['ctx']['error']}" if where else str(item["ctx"]["error"])
        elif item["loc"] and item["loc"][-1] in SCALARS and item["type"] not in LIMITS:
            line = f"{where}={item['input']!r}: must be {SCALARS[str(item['loc'][-1])]}"
        else:
            message = f"{item['msg'][0].lower()}{item['msg'][1:]}".removeprefix("input ")
            line = f"{where}={item['input']!r}: {message}"
        lines.setdefault(where, line)
    return list(lines.values())


def _holder(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model that should have had the last key of an error's place."""
    current: Any = model
    for part in loc[:-1]:
        if part in KINDS:
            current = KINDS[str(part)]
        elif isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[str(part)].annotation
    return current


KIND_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": (">=", operator.ge),
    "above": (">", operator.gt),
    "maximum": ("<=", operator.le),
}


@functools.cache
def field_types(settings: type) -> dict[str, Any]:
    """Return the types of a class's fields by name; a search asks thousands of times."""
    return get_type_hints(settings)


def setting_problem(settings: type, name: str, value: Any, where: str | None = None) -> str | None:
    """Say what is wrong with one setting of a dataclass of settings, or return None.

    Args:
        settings: dataclass whose fields were declared by `core.setting`.
        where: what to call the value in the message; its name, if not given.
    """
    kinds = field_types(settings)
    if name not in kinds:
        return f"{where or name}: unknown setting.{allowed(name, kinds)}"
    limits, kind = settings.__dataclass_fields__[name].metadata, kinds[name]  # type: ignore[attr-defined]
    wrong = [
        f"{sign} {limits[key]}"
        for key, (sign, holds) in BOUNDS.items()
        if limits[key] is not None and isinstance(value, int | float) and not holds(value, limits[key])
    ]
    if isinstance(value, bool) != (kind is bool) or not isinstance(
        value, (int, float) if kind is float else kind
    ):
        wrong = [KIND_NAMES[kind]]
    elif limits["choices"] is not None and value not in limits["choices"]:
        wrong = [f"one of {', '.join(map(str, limits['choices']))}"]
    elif isinstance(value, float) and not math.isfinite(value):
        wrong = ["finite"]
    return f"{where or name}={value!r}: must be {wrong[0]}" if wrong else None


def parse_settings(settings: type, pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """Read key=value pairs as the types of a dataclass of settings; all problems are reported at once."""
    values, wrong = parse_pairs(field_types(settings), pairs)
    wrong += [problem for key in values if (problem := setting_problem(settings, key, values[key]))]
    if wrong:
        raise MetabenchError("\n".join(f"{flag} {line}" for line in wrong))
    return values


def parse_pairs(kinds: Mapping[str, Any], pairs: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read key=value pairs as values of some types; also list those that are no such pairs."""
    split = [(pair, *pair.partition("=")) for pair in pairs]
    values = {key: _parse(text, kinds.get(key, str)) for _, key, sep, text in split if sep}
    return values, [f"{pair}: must be key=value" for pair, _, sep, _ in split if not sep]


def _parse(text: str, kind: Any) -> Any:
    """Read text as a type, or return it as it is, for the check to refuse."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """Build a model, or say all that is wrong with its values."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise MetabenchError("\n".join(problems(error, model))) from None


def attempt(wrong: list[str], function: Callable[..., T], *args: Any) -> T | None:
    """Call a function; add the lines of a MetabenchError to a list and return None."""
    try:
        return function(*args)
    except MetabenchError as error:
        wrong += str(error).splitlines()
        return None


def refusal(source: object, wrong: Sequence[str]) -> MetabenchError:
    """Say where problems were and how many, and list them."""
    count = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
    return MetabenchError("\n  ".join([f"{source}: {count}", *wrong]))


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys; those of the space without its name."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, key if prefix in ("", "space") else f"{prefix}.{key}")
    return flat
