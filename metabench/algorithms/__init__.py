"""The algorithms, one file a family; the folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from metabench.core import GROUPED, Algorithm, MetabenchError, plugins
from metabench.core.config import TaskConfig, allowed, field_types, folded, setting_problem


@cache
def _registry() -> dict[str, Algorithm]:
    registry: dict[str, Algorithm] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name[0] != "_":
            registry |= importlib.import_module(f"{__name__}.{module.name}").ALGORITHMS
    return registry


def names(kind: str | None = None) -> list[str]:
    """List the algorithms by name, those that installed packages add among them.

    Args:
        kind: of data set, `classification` or `regression`: only those that can learn it.
    """
    listed = sorted({*_registry(), *plugins.plugins("algorithm")})
    return listed if kind is None else [name for name in listed if kind in get(name).kinds]


@cache
def _names() -> dict[str, str]:
    """Return the registered names by what people may write."""
    built_in = {
        folded(one): name for name, about in _registry().items() for one in (name, *about.also_called)
    }
    return {folded(name): name for name in plugins.plugins("algorithm")} | built_in


def canonical(name: str) -> str:
    """Return the registered name that is meant, such as maml_pp by MAML++; an unknown one as it is."""
    base, dot, label = name.partition(".")
    return f"{_names().get(folded(base), base)}{dot}{label}"


def get(name: str) -> Algorithm:
    """Look an algorithm up; `NAME.LABEL` is NAME, as another row of the same search."""
    base, dot, label = canonical(name).partition(".")
    if base not in names():
        raise MetabenchError(f"algorithm {name!r}: unknown.{allowed(base, names())}")
    if dot and not re.fullmatch(r"[a-z0-9_]+", label):
        raise MetabenchError(
            f"algorithm {name!r}: what follows the dot labels a row and must be of a-z, 0-9 and _"
        )
    if problem := plugins.clash("algorithm", base, base in _registry()):
        raise MetabenchError(problem)
    return _registry()[base] if base in _registry() else _added(base)


@cache
def _added(name: str) -> Algorithm:
    """Import what an installed package adds."""
    loaded: Algorithm = plugins.load(
        "algorithm", name, lambda one: isinstance(one, Algorithm), "an Algorithm"
    )
    return loaded


def is_known(name: str) -> bool:
    """Tell whether `get` finds a name."""
    try:
        get(name)
    except MetabenchError:
        return False
    return True


def steps_at_evaluation(algorithm: Algorithm, values: Mapping[str, Any]) -> int:
    """Return after how many inner steps a setting is evaluated; without an inner loop, 0."""
    counts = (int(values.get(name, -1)) for name in algorithm.inner_steps)
    return next((count for count in counts if count >= 0), 0)


def refusals(name: str, dataset: str, kinds: Sequence[str]) -> list[str]:
    """Say that an algorithm cannot learn a data set of these kinds, and which ones can; nothing if it can.

    Args:
        kinds: of learners that can learn it, that of the data first.
    """
    if {*kinds} & {*get(name).kinds}:
        return []
    if kinds[0] == "classification" and get(name).kinds == (GROUPED,):
        return [
            f"algorithm {name!r}: {dataset} has no column of groups; take data whose examples have one, such "
            "as a table with `group`, or another algorithm"
        ]
    able = [other for other in names() if is_known(other) and kinds[0] in get(other).kinds]
    return [f"algorithm {name!r}: not for {kinds[0]} ({dataset}). For {kinds[0]}: {', '.join(able)}"]


def fixed_problem(name: str, h: Any) -> str | None:
    """Say why an algorithm cannot have fixed labels with its settings, or return None."""
    if not get(name).compares(h):
        return None
    return (
        f"{name}: labels=fixed: it compares with support examples of each class, and has no output for one "
        "that a task lacks; take shuffled, which to it is the same"
    )


def search_problem(h: Any, kind: str) -> str | None:
    """Say why an outer optimiser cannot be for this kind of data, or return None."""
    from metabench.algorithms import _policy_search  # it needs torch, which few callers do

    return _policy_search.problem(h, kind)


def unlabelled_problems(name: str, h: Any, task: TaskConfig) -> list[str]:
    """Say what an algorithm that reads unlabelled images cannot do with those of a task."""
    if get(name).taken is None:
        return []
    wrong = []
    if not task.unlabelled and not task.evaluated.unlabelled:
        wrong.append("unlabelled=0: leaves nothing to refine with; set unlabelled, or take protonet or maml")
    if task.unlabelled and h.turn_classes:
        wrong.append("turn_classes=True: unlabelled images have no label to be turned by; leave it out")
    return wrong


def hparams(name: str, values: dict[str, Any]) -> Any:
    """Build an algorithm's settings from plain values, defaults filled in; all problems come at once."""
    h = filled(name, values)
    wrong = get(name).check(h)
    if getattr(h, "recompute", False) and not get(name).has_recompute:
        wrong.append("recompute=true: has no effect where inner gradients are constants; leave it out")
    if wrong:
        raise MetabenchError("\n".join(f"{name}: {line}" for line in wrong))
    return h


def filled(name: str, values: dict[str, Any]) -> Any:
    """Build an algorithm's settings, each of them checked, whether or not they go together."""
    kind = get(name).hparams
    wrong = [problem for key in values if (problem := setting_problem(kind, key, values[key]))]
    if wrong:
        raise MetabenchError("\n".join(f"{name}: {line}" for line in wrong))
    types = field_types(kind)
    return kind(**{key: float(value) if types[key] is float else value for key, value in values.items()})
