"""Functions over nested dicts of tensors, and over other containers of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from metabench.core import Tree


def map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply a function to every leaf, or to the matching leaves of several trees."""
    if isinstance(tree, dict):
        return {key: map(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    return function(tree, *others)


flatten, unflatten = tree_flatten, tree_unflatten
"""List the leaves of nested tuples, lists and dicts with their form; put them together again by that form."""


def together(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply a function of lists to all leaves at once, or to the matching leaves of several trees.

    Args:
        function: returns a list, one for each leaf, as torch's `_foreach_` functions do: few kernels, not one
            for each leaf.
    """
    rows: list[tuple[Any, ...]] = []
    map(lambda *leaves: rows.append(leaves), tree, *others)
    results = iter(function(*(list(column) for column in zip(*rows, strict=True))) if rows else ())
    return map(lambda _: next(results), tree)


def items(tree: Tree, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, leaf) pairs, names joined by dots."""
    if not isinstance(tree, dict):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from items(value, f"{prefix}.{key}" if prefix else key)


def leaves(tree: Tree) -> list[torch.Tensor]:
    """List the leaves in the order of `items`."""
    return [leaf for _, leaf in items(tree)]


def dot(left: Tree, right: Tree) -> torch.Tensor:
    """Sum the products of matching leaves."""
    products = leaves(map(lambda a, b: (a * b).sum(), left, right))
    return torch.stack(products).sum() if products else torch.zeros(())


def norm(tree: Tree) -> torch.Tensor:
    """Return the Euclidean norm over all leaves."""
    return dot(tree, tree).sqrt()


def is_finite(tree: Tree) -> torch.Tensor:
    """Return a bool tensor: whether every number in every leaf is finite."""
    return torch.stack([leaf.isfinite().all() for leaf in leaves(tree)] or [torch.tensor(True)]).all()


def fill(template: Tree, flat: dict[str, torch.Tensor], prefix: str = "") -> Tree:
    """Put named leaves, as listed by `items`, into the shape of a template."""
    names = (name for name, _ in items(template, prefix))
    return map(lambda _: flat[next(names)], template)
