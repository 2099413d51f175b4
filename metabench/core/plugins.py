"""What other installed packages add to the registries, by entry points."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from metabench.core import MetabenchError
from metabench.core.modules import import_object

GROUPS = {
    "algorithm": "metabench.algorithms",
    "dataset": "metabench.datasets",
    "network": "metabench.networks",
}


class Plugin(NamedTuple):
    """One thing that a package adds."""

    name: str
    origin: str  # the package and its version
    spec: str  # package.module:name


@cache
def plugins(what: str) -> dict[str, tuple[Plugin, ...]]:
    """Return what installed packages add to a registry, by name; nothing is imported.

    Args:
        what: algorithm, dataset or network.
    """
    added: dict[str, tuple[Plugin, ...]] = {}
    for one in sorted(metadata.entry_points(group=GROUPS[what]), key=lambda one: (one.name, one.value)):
        origin = f"{one.dist.name} {one.dist.version}" if one.dist else "a package"
        plugin = Plugin(one.name, origin, one.value)
        if plugin not in added.get(one.name, ()):
            added[one.name] = (*added.get(one.name, ()), plugin)
    return added


def clash(what: str, name: str, is_built_in: bool) -> str | None:
    """Say that two have one name, or return None."""
    its = plugins(what).get(name, ())
    origins = [*(["metabench"] if is_built_in else []), *(one.origin for one in its)]
    if len(origins) < 2:
        return None
    return f"{what} {name!r}: is in {' and in '.join(origins)}; rename or remove one"


def load(what: str, name: str, is_right: Callable[[Any], bool], must_be: str) -> Any:
    """Import what a package adds, or say which package is broken.

    Args:
        must_be: what it is where `is_right`, for the message where it is not.
    """
    (plugin,) = plugins(what)[name]
    where = f"{what} {name!r} of {plugin.origin}"
    loaded = import_object(plugin.spec, where)
    if not is_right(loaded):
        raise MetabenchError(f"{where}: is {type(loaded).__name__}; must be {must_be}")
    return loaded
