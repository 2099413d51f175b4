"""What each acquisition picks, by its own law."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
from torch.func import vmap

from metabench import acquisition
from metabench.acquisition import View
from metabench.acquisition.functions import badge, expected_error, k_centre, typiclust, unguided
from metabench.core import MetabenchError, seeds
from tests.acquisition import tasks

BLIND = [name for name in acquisition.names() if name != "oracle"]


def pick(name: str, view: View, b: int, seed: int = 0) -> list[int]:
    """Ask an acquisition for b labels."""
    acquire = tasks.rule(name, dtype=torch.float64).acquire
    assert acquire is not None
    picked: list[int] = acquire(view, b, tasks.noise(b, len(view.x), seed)).tolist()
    return picked


@pytest.mark.parametrize("name", BLIND)
def test_no_example_is_picked_twice_or_again(name: str) -> None:
    for seed in range(3):
        view = tasks.view(seed=seed)
        left = int((~view.taken).sum())
        picked = pick(name, view, left, seed)
        assert sorted(picked) == (~view.taken).nonzero().flatten().tolist()


@pytest.mark.parametrize("name", BLIND)
def test_permuting_the_pool_permutes_the_choice(name: str) -> None:
    acquire = tasks.rule(name, dtype=torch.float64).acquire
    assert acquire is not None
    for seed in range(3):
        view, noise = tasks.view(seed=seed), tasks.noise(4, 12, seed)
        order = torch.randperm(12, generator=seeds.generator("order", seed))
        other = view._replace(x=view.x[order], p=view.p[order], taken=view.taken[order])
        assert order[acquire(other, 4, noise[:, order])].tolist() == acquire(view, 4, noise).tolist()


@pytest.mark.parametrize("name", BLIND)
def test_tasks_together_equal_one_at_a_time(name: str) -> None:
    acquire = tasks.rule(name, dtype=torch.float64).acquire
    assert acquire is not None
    views = [tasks.view(seed=seed) for seed in range(3)]
    noise = torch.stack([tasks.noise(3, 12, seed) for seed in range(3)])
    together = vmap(lambda view, drawn: acquire(view, 3, drawn))(
        View(*map(torch.stack, zip(*views, strict=True))), noise
    )
    alone = [acquire(view, 3, drawn).tolist() for view, drawn in zip(views, noise, strict=True)]
    assert together.tolist() == alone


def test_random_is_uniform() -> None:
    """By chi squared over 10,000 draws of one, and of the second of two."""
    view = tasks.view(n_pool=8)._replace(taken=torch.arange(8) % 4 == 1)
    left = (~view.taken).nonzero().flatten().tolist()
    generator = seeds.generator("uniform")
    noise = torch.rand(10_000, 2, 8, generator=generator, dtype=torch.float64)
    picked = vmap(lambda drawn: unguided.random(view, 2, drawn))(noise)
    for column in picked.T:
        counts = np.bincount(column.numpy(), minlength=8)[left]
        assert counts.sum() == 10_000
        assert scipy.stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("n_seen", [0, 2])
def test_k_centre_reaches_at_most_twice_the_least_radius(n_seen: int) -> None:
    for seed in range(20):
        view = tasks.view(n_pool=8, n_seen=n_seen, width=2, seed=seed)
        view = view._replace(taken=torch.zeros(8, dtype=torch.bool))

        def radius(chosen: list[int], view: View = view) -> float:
            centres = torch.cat([view.seen_x, view.x[chosen]])
            return float(torch.cdist(view.x, centres).amin(1).max())

        least = min(radius(list(some)) for some in itertools.combinations(range(8), 3))
        assert radius(pick("k_centre", view, 3, seed)) <= 2 * least + 1e-12


def test_k_centre_picks_what_is_farthest_from_all_that_has_a_label() -> None:
    view = tasks.view()
    apart = torch.cdist(view.x, view.seen_x).amin(1).masked_fill(view.taken, -1)
    first, second = k_centre.k_centre(view, 2, tasks.noise(2, 12)).tolist()
    assert first == int(apart.argmax())
    apart = torch.minimum(apart, torch.cdist(view.x, view.x[[first]])[:, 0]).masked_fill(view.taken, -1)
    assert second == int(apart.argmax())


def gradients(view: View) -> torch.Tensor:
    """Return each example's gradient of -log p of the guess, by the last layer or prototypes: [M, N*F]."""
    guess = torch.nn.functional.one_hot(view.p.argmax(-1), 3)
    return ((view.p - guess)[:, :, None] * (view.x[:, None] - view.c)).flatten(1)


@pytest.mark.parametrize("has_prototypes", [False, True])
def test_badge_knows_all_distances_without_an_outer_product(has_prototypes: bool) -> None:
    view = tasks.view()
    view = view if has_prototypes else view._replace(c=torch.zeros_like(view.c))
    g = gradients(view)
    assert torch.allclose(badge.products(view), g @ g.T, atol=1e-12)


def test_badge_gradients_are_those_of_the_loss() -> None:
    """For prototypes but for the factor 2, for weights as they are, by automatic differentiation."""
    view = tasks.view()
    logits = -(view.x[:, None] - view.c).square().sum(-1)
    view = view._replace(p=logits.softmax(-1))

    def loss(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return -(-(x - c).square().sum(-1)).log_softmax(-1).max()

    by_torch = vmap(torch.func.grad(loss), (None, 0))(view.c, view.x).flatten(1)
    assert torch.allclose(by_torch, 2 * gradients(view), atol=1e-12)


def test_badge_begins_with_the_largest_gradient_and_goes_on_by_squared_distance() -> None:
    view = tasks.view(n_pool=6)._replace(taken=torch.zeros(6, dtype=torch.bool))
    g = gradients(view)
    first = int(g.square().sum(1).argmax())
    noise = torch.rand(20_000, 2, 6, generator=seeds.generator("badge"), dtype=torch.float64)
    picked = vmap(lambda drawn: badge.badge(view, 2, drawn.clamp(1e-9)))(noise)
    assert bool((picked[:, 0] == first).all())
    chance = (g - g[first]).square().sum(1)
    expected = (20_000 * chance / chance.sum()).numpy()
    seen = np.bincount(picked[:, 1].numpy(), minlength=6)
    others = [one for one in range(6) if one != first]
    assert seen[first] == 0
    assert scipy.stats.chisquare(seen[others], expected[others]).pvalue > 0.001


def test_typiclust_takes_one_of_each_cluster_without_a_label_the_largest_first() -> None:
    generator = seeds.generator("clusters")
    sizes, middles = [3, 5, 4, 6], torch.tensor([[0.0, 0], [40, 0], [0, 40], [40, 40]], dtype=torch.float64)
    place = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    x = middles[place] + torch.randn(18, 2, generator=generator, dtype=torch.float64)
    view = tasks.view(n_pool=18, n_seen=1, width=2)._replace(x=x, seen_x=middles[1:2] + 0.1)
    view = view._replace(taken=torch.zeros(18, dtype=torch.bool))
    picked = pick("typiclust", view, 3)
    assert place[picked].tolist() == [3, 2, 0]
    for one in picked:
        mates = (place == place[one]).nonzero().flatten()
        mean = torch.cdist(x[mates], x[mates]).sum(1)
        assert int(mates[mean.argmin()]) == one


def test_typicality_of_one_alone_is_finite() -> None:
    belongs = torch.tensor([[1.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    x = torch.tensor([[0.0], [2.0], [10.0]], dtype=torch.float64)
    assert typiclust.typicality(x, belongs).tolist() == [0.5, 0.5, 0.1]


def test_expected_error_equals_refitting_for_each_example_and_label() -> None:
    view = tasks.view(n_seen=7)
    c = torch.stack([view.seen_x[view.seen_y == k].mean(0) for k in range(3)])
    view = view._replace(c=c)
    by_loop = torch.zeros(12, dtype=torch.float64)
    for i, k in itertools.product(range(12), range(3)):
        seen_x, seen_y = (
            torch.cat([view.seen_x, view.x[i : i + 1]]),
            torch.cat([view.seen_y, torch.tensor([k])]),
        )
        refitted = torch.stack([seen_x[seen_y == j].mean(0) for j in range(3)])
        p = (-view.scale * torch.cdist(view.x, refitted).square()).softmax(-1)
        by_loop[i] += view.p[i, k] * -(p * p.log()).sum()
    assert torch.allclose(expected_error.expected_entropy(view), by_loop, atol=1e-10)
    assert pick("expected_error", view, 1) == [int(by_loop.masked_fill(view.taken, math.inf).argmin())]


def test_the_unsure_are_picked_by_entropy_by_confidence_or_by_lead() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0], [0.45, 0.3, 0.25], [0.9, 0.05, 0.05], [0.4, 0.4, 0.2]])
    view = tasks.view(n_pool=4)._replace(p=p.double(), taken=torch.tensor([False, False, False, True]))
    assert pick("entropy", view, 1) == [1]
    assert pick("least_confidence", view, 1) == [1]
    assert pick("margin", view, 1) == [0]


def test_an_unknown_acquisition_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        MetabenchError, match=r"acquire 'entrpy': unknown\. Did you mean 'entropy'\? Allowed: badge"
    ):
        acquisition.get("entrpy")
    assert acquisition.canonical("K-Centre") == "k_centre"


@pytest.mark.parametrize("name", acquisition.names())
def test_each_says_where_it_is_from(name: str) -> None:
    assert len(acquisition.get(name).reference) > 40


def test_the_guide_has_a_row_for_each() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "label.md").read_text()
    table = guide.split("## Acquisitions")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == acquisition.names()
