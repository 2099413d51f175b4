"""Trees keep their shape, and seeds are a pure function of names."""

from __future__ import annotations

import pytest
import torch

from metabench.core import seeds, trees

TREE = {"b": {"y": torch.tensor([1.0, 2.0]), "x": torch.tensor(3.0)}, "a": torch.tensor([4.0])}


def test_flattening_and_filling_is_the_identity() -> None:
    flat = dict(trees.items(TREE))
    assert list(flat) == ["b.y", "b.x", "a"]
    assert all(a is b for a, b in zip(trees.leaves(trees.fill(TREE, flat)), trees.leaves(TREE), strict=True))


def test_dot_and_norm_run_over_all_leaves() -> None:
    assert float(trees.dot(TREE, TREE)) == 30.0
    assert float(trees.norm(TREE)) == pytest.approx(30.0**0.5)


def test_one_nan_anywhere_is_not_finite() -> None:
    assert bool(trees.is_finite(TREE))
    assert not bool(trees.is_finite({**TREE, "c": torch.tensor(float("nan"))}))


def test_seeds_depend_on_every_name_and_nothing_else() -> None:
    assert seeds.seed("a", 1) == seeds.seed("a", 1)
    assert (
        len(
            {
                seeds.seed("a", 1),
                seeds.seed("a", 2),
                seeds.seed("b", 1),
                seeds.seed("a1"),
                seeds.seed("a", "1", ""),
            }
        )
        == 5
    )
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    seeds.generator("noise")
    assert torch.equal(torch.rand(1), before)


def test_a_product_pairs_leaves_by_name_in_whatever_order_they_stand() -> None:
    left = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    right = {"b": torch.tensor([10.0, 0.0]), "a": torch.tensor([0.0, 100.0])}
    assert float(trees.dot(left, right)) == 230
    assert float(trees.norm({})) == 0
