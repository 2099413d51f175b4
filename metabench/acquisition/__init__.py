"""What to label: which examples of a task's pool are shown labels of next; functions/ is the registry.

An acquisition is written for one task and sees no label that was not revealed. Who reveals them, and what
they are worth, is `rounds.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from metabench.acquisition import functions
from metabench.core import MetabenchError
from metabench.core.config import allowed, folded

if TYPE_CHECKING:
    from torch import Tensor

    from metabench.core import Tree

REFERENCE = "random"
"""What all others are compared with."""

NO_CLASS = -1
"""Label of an example that is of none of the task's classes."""


class View(NamedTuple):
    """What an acquisition may look at of one task with N classes, M examples in its pool and A labelled."""

    x: Tensor  # [M, F], features of the pool: the network's, as the learner left it, or else inputs
    p: Tensor  # [M, N], what the learner thinks of each; 0 of a class that has no label yet
    taken: Tensor  # bool [M], whose label was asked for
    seen_x: Tensor  # [A, F], features of the start, then of those that were asked for, in turn
    seen_y: Tensor  # [A], their labels; NO_CLASS of a distractor
    c: Tensor  # [N, F], prototypes; zeros where the learner has none
    scale: Tensor  # factor of the squared distance to them


class Acquisition(NamedTuple):
    """A rule that says what to label next."""

    # (view, b, noise [b, M], uniform on (0, 1)) -> int64 [b], distinct and not taken; None: it knows
    # all labels, or is learnt
    acquire: Callable[[View, int, Tensor], Tensor] | None
    reference: str  # paper, equation, deviations
    needs_labels: bool = False  # whether it has nothing to go by before the first label
    heads: tuple[str, ...] = ()  # that a learner may have, as `Algorithm.head` says; empty: any
    # of one that is learnt: (weights, tau, view, b, noise), of which `learning.py` makes the first of all
    learns: Callable[[Tree, float, View, int, Tensor], Tensor] | None = None


@cache
def _registry() -> dict[str, Acquisition]:
    registry: dict[str, Acquisition] = {}
    for module in pkgutil.iter_modules(functions.__path__):
        if module.name[0] != "_":
            registry |= importlib.import_module(f"{functions.__name__}.{module.name}").ACQUISITIONS
    return registry


def names() -> list[str]:
    """List the acquisitions by name."""
    return sorted(_registry())


def get(name: str) -> Acquisition:
    """Look an acquisition up."""
    if name not in _registry():
        raise MetabenchError(f"acquire {name!r}: unknown.{allowed(name, names())}")
    return _registry()[name]


def canonical(name: str) -> str:
    """Return the registered name that is meant, such as k_centre by k-centre; an unknown one as it is."""
    return next((one for one in names() if folded(one) == folded(name)), name)
