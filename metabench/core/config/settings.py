"""What is wrong with settings as `core.setting` declares them, and how they are read from key=value."""

from __future__ import annotations

import difflib
import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from metabench.core import MetabenchError

LARGEST = 1e300
"""The largest number of a setting that has no maximum of its own."""

KIND_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": (">=", operator.ge),
    "above": (">", operator.gt),
    "maximum": ("<=", operator.le),
}


def folded(name: str) -> str:
    """Return what is left of a name where people write it differently: no case, blanks or hyphens; + is p."""
    return "".join(one for one in name.lower().replace("+", "p") if one.isalnum())


def n_folds(options: Mapping[str, Any]) -> int:
    """Return over how many cuts of the same pictures, or tasks, options of a data set cross-validate."""
    folds = options.get("folds") if options.get("split_by", "pictures") == "pictures" else None
    return folds if type(folds) is int and folds > 1 else 1


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ' Did you mean ...?' for a typo, or ''."""
    by_folded = {folded(one): one for one in allowed}
    close = difflib.get_close_matches(folded(name), by_folded, n=1)
    return f" Did you mean {by_folded[close[0]]!r}?" if close else ""


def allowed(name: str, names: Iterable[str]) -> str:
    """Return the nearest name to one that is unknown, if any is near, and all that are allowed."""
    return f"{nearest(name, names)} Allowed: {', '.join(names)}"


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
    elif isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        wrong = ["finite" if isinstance(value, float) and not math.isfinite(value) else f"<= {LARGEST:g}"]
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


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys; those of the space without its name."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, key if prefix in ("", "space") else f"{prefix}.{key}")
    return flat
