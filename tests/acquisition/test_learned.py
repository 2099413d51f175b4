"""The policy that is learnt: its probabilities, its gradient, and that it learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy
import torch
from torch.func import grad, vmap

from metabench import acquisition
from metabench.acquisition import NO_CLASS, View, learning, rounds
from metabench.acquisition import pools as pooling
from metabench.acquisition.config import LabelConfig, task_of
from metabench.acquisition.functions import learned
from metabench.acquisition.pools import Block
from metabench.core import Tree, seeds, trees
from tests.acquisition import tasks
from tests.support import small

TAU = 0.7
SETS = [torch.tensor(pair) for pair in itertools.permutations(range(4), 2)]
"""Ordered choices of two of four."""


@pytest.fixture
def weights() -> Tree:
    """Draw a policy in float64."""
    return trees.map(torch.Tensor.double, learned.init(3, seeds.generator("policy")))


@pytest.fixture
def view() -> View:
    """Draw a pool of four of which nothing is taken."""
    drawn = tasks.view(n_pool=4)
    return drawn._replace(taken=torch.zeros(4, dtype=torch.bool))


def test_probabilities_of_all_ordered_sets_add_up_to_one(weights: Tree, view: View) -> None:
    chances = [learned.log_p(weights, view, picks, TAU).exp() for picks in SETS]
    assert float(sum(chances)) == pytest.approx(1, abs=1e-12)
    assert max(map(float, chances)) > 1.3 * min(map(float, chances))


def test_sets_are_drawn_as_often_as_their_probabilities_say(weights: Tree, view: View) -> None:
    noise = torch.rand(20_000, 2, 4, generator=seeds.generator("sets"), dtype=torch.float64).clamp(1e-9)
    picks = vmap(lambda drawn: learned.pick(weights, view, 2, drawn, TAU))(noise)
    seen = np.bincount((4 * picks[:, 0] + picks[:, 1]).numpy(), minlength=16)
    expected = [20_000 * float(learned.log_p(weights, view, picks, TAU).exp()) for picks in SETS]
    counts = [seen[int(4 * picks[0] + picks[1])] for picks in SETS]
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.001


def test_the_gradient_by_reinforce_is_that_of_the_expected_reward(weights: Tree, view: View) -> None:
    """By enumeration of all pairs of trajectories of one task: the baseline leaves no bias."""
    reward = torch.randn(len(SETS), generator=seeds.generator("reward"), dtype=torch.float64)

    def log_ps(weights: Tree) -> torch.Tensor:
        return vmap(lambda picks: learned.log_p(weights, view, picks, TAU))(torch.stack(SETS))

    chance = log_ps(weights).exp()
    exact = grad(lambda weights: (log_ps(weights).exp() * reward).sum())(weights)
    factors = torch.zeros_like(reward)
    for pair in itertools.product(range(len(SETS)), repeat=2):
        both = torch.tensor(pair)
        factors = factors.index_add(0, both, chance[both].prod() * learning.advantages(reward[both]) / 2)
    estimated = grad(lambda weights: (factors * log_ps(weights)).sum())(weights)
    for name, leaf in trees.items(exact):
        assert torch.allclose(dict(trees.items(estimated))[name], leaf, atol=1e-12), name


def test_diversity_is_the_least_sine_to_what_was_taken(weights: Tree, view: View) -> None:
    q, apart = learned.scores(weights, view, TAU)
    hidden = torch.tanh(learned.statistics(view) @ weights["hidden"]["weight"].T + weights["hidden"]["bias"])
    phi = hidden @ weights["key"]["weight"].T + weights["key"]["bias"]
    cosine = torch.cosine_similarity(phi[:, None], phi, dim=-1)
    assert torch.allclose(apart, (1 - cosine.square() + 1e-6).sqrt() / TAU, atol=1e-9)
    taken = torch.tensor([True, False, True, False])
    logits = (q + torch.minimum(apart[:, 0], apart[:, 2]))[~taken]
    assert torch.allclose(learned.log_chances((q, apart), taken)[~taken], logits.log_softmax(0))


def test_statistics_know_neither_the_order_of_classes_nor_the_scale_of_features(view: View) -> None:
    other = view._replace(x=3 * view.x, seen_x=3 * view.seen_x, p=view.p[:, [2, 0, 1]])
    assert torch.allclose(learned.statistics(other), learned.statistics(view))


def far_off(seed: int, width: int) -> Block:
    """Draw 20 tasks on features: blurred classes around the middle, and as many distractors far away."""
    generator = seeds.generator("far off", seed)
    middles = torch.randn(20, 3, width, generator=generator)
    y = torch.arange(3).repeat(20, 5).sort(-1).values  # 5 a class: the start, two in the pool, two queries
    x = middles.gather(1, y[..., None].expand(-1, -1, width)) + torch.randn(
        20, 15, width, generator=generator
    )
    distractors = 6 + torch.randn(20, 6, width, generator=generator)
    start, pool, query = (
        torch.arange(15).view(3, 5)[:, part].flatten() for part in (slice(1), slice(1, 3), slice(3, 5))
    )
    pool_y = torch.cat([y[:, pool], torch.full((20, 6), NO_CLASS)], 1)
    return Block(
        torch.cat([x[:, start], x[:, pool], distractors, x[:, query]], 1), y[:, start], pool_y, y[:, query], 3
    )


def test_a_policy_learns_to_leave_distractors_alone() -> None:
    splits = small.splits(n_examples=12)
    config = LabelConfig(pool=2, distractors=3, rounds=2, query=2, tasks=20, learn_rate=0.1)
    model, _ = pooling.blocks(
        tasks.untrained("protonet", splits), splits.meta_test.images, tasks.drawn(splits, config), config
    )

    def wasted(weights: Tree) -> float:
        rule = learning.bound(acquisition.get("learned"), dict(trees.items(weights)), config)
        came = rounds.ask(model, far_off(100, model.net.features), rule, config, torch.rand(2, 20, 1, 12))
        return float(came.wasted[:, -1].mean())

    weights = trees.map(torch.Tensor.requires_grad_, learned.init(3, seeds.generator("policy")))
    start = trees.map(lambda leaf: leaf.detach().clone(), weights)
    optimizer = torch.optim.Adam(trees.leaves(weights), lr=0.1)
    for step in range(25):
        optimizer.zero_grad()
        block = far_off(step, model.net.features)
        learning.surrogate(weights, model, block, config, seeds.generator("step", step)).backward()
        optimizer.step()
    assert wasted(start) > 0.6
    assert wasted(trees.map(torch.Tensor.detach, weights)) < wasted(start) / 2


def test_what_is_learnt_is_the_same_each_time() -> None:
    splits = small.splits(n_examples=12)
    config = LabelConfig(pool=3, rounds=1, query=3, learn_tasks=20)
    model = tasks.untrained("protonet", splits)
    described = task_of(config, small.TASK, splits.meta_train, "small")
    one, other = (learning.learn(model, splits.meta_train, described, config) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(trees.leaves(one), trees.leaves(other), strict=True))


def test_a_trajectory_is_worth_what_follows_it() -> None:
    """One round of one label, in a block of one task: the surrogate is the advantage times the logarithm."""
    splits = small.splits(n_examples=12)
    config = LabelConfig(pool=3, rounds=1, query=3, sets=3, tasks=2)
    model, in_blocks = pooling.blocks(
        tasks.untrained("protonet", splits), splits.meta_test.images, tasks.drawn(splits, config), config
    )
    (block,) = in_blocks()
    weights = learned.init(3, seeds.generator("policy"))
    loss = learning.surrogate(weights, model, block, config, seeds.generator("noise"))
    noise = torch.rand((6, 1, 9), generator=seeds.generator("noise")).clamp(1e-7, 1 - 1e-7)
    rows = torch.arange(2).repeat_interleave(3)
    hidden = torch.full_like(block.pool_y, rounds.HIDDEN)[rows]
    look = rounds.outlook(model, block, rows, hidden, of_pool=True)
    total = 0.0
    values, log_p = torch.zeros(6), torch.zeros(6)
    for at in range(6):
        row = int(rows[at])
        view = View(
            look.x[at, 3:], look.p[at], torch.zeros(9, dtype=torch.bool), look.x[at, :3], block.start_y[row],
            torch.zeros(3, look.x.shape[-1]), torch.ones(()),
        )  # fmt: skip
        picks = learned.pick(weights, view, 1, noise[at], config.tau)
        log_p[at] = learned.log_p(weights, view, picks, config.tau)
        state = hidden[:1].scatter(1, picks[None], block.pool_y[row : row + 1, picks])
        values[at] = rounds.outlook(model, block, torch.tensor([row]), state, of_pool=False).score[0]
    for task in range(2):
        for at in range(3 * task, 3 * task + 3):
            others = [one for one in range(3 * task, 3 * task + 3) if one != at]
            total -= float((values[at] - values[others].mean()) * log_p[at]) / 6
    assert float(loss) == pytest.approx(total, abs=1e-5)
