"""Collecting trajectories: chance by name, advantages by definition, and ends that count."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from metabench import algorithms, data
from metabench.core import Task, seeds, trees
from metabench.core.control import SURROGATES, Chances, Environment, Moves, log_prob
from metabench.data.tasks import frozen
from metabench.training import loop, rollouts, vectorise
from metabench.training.vectorise import Model
from tests.support import small

GOALS = torch.from_numpy(np.random.RandomState(1).uniform(-0.5, 0.5, (40, 2)))
"""The goals that the paper's curves are of."""


def problem(
    algorithm: str = "maml", dataset: str = "navigation", n_tasks: int = 3, **values: Any
) -> tuple[Model, Task]:
    """Make a model in float64, and tasks before anyone has acted."""
    config = small.acting(algorithm, dataset, **values)
    splits = data.load(config.task)
    learner = loop.build(config, splits)
    model = loop.model(learner, loop.start(config, learner))
    meta = trees.map(lambda leaf: leaf.double(), model.meta)
    tasks = frozen.frozen(splits, "meta_test", config.task, n_tasks, "test")
    drawn = frozen.gather(splits.meta_test.images, tasks.groups[0].indices, tasks.groups[0].shape)
    return model._replace(meta=meta), trees.unflatten(
        [as_double(leaf) for leaf in trees.flatten(drawn)[0]], trees.flatten(drawn)[1]
    )


def as_double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def collected(model: Model, tasks: Task) -> Task:
    return cast(Task, vectorise.per_task_of(model, lambda model, task: task, tasks))


def leaves(tasks: Any) -> list[Tensor]:
    return list(trees.flatten(tasks)[0])


def part(tasks: Any, index: Any) -> Any:
    flat, form = trees.flatten(tasks)
    return trees.unflatten([leaf[index] for leaf in flat], form)


@pytest.mark.parametrize("dataset", ["navigation", "bandit"])
def test_tasks_together_act_as_each_by_itself(dataset: str) -> None:
    model, tasks = problem(dataset=dataset, inner_steps=2)
    together = collected(model, tasks)
    for index in range(3):
        alone = collected(model, part(tasks, slice(index, index + 1)))
        for one, many in zip(leaves(alone), leaves(part(together, slice(index, index + 1))), strict=True):
            # Sums in another order: 100 steps of 1e-16 each, through two inner steps.
            torch.testing.assert_close(one, many, atol=1e-10, rtol=1e-10)


def test_the_chance_of_a_step_depends_on_no_other_step_and_is_never_that_of_the_judged() -> None:
    model, tasks = problem()
    environment = cast(Environment, model.net.environment)
    one, three = (rollouts.draw(environment, tasks, steps) for steps in (1, 3))
    for few, many in zip(one.support[1:], three.support[1:], strict=True):
        assert torch.equal(few, many[:, :1])
    assert torch.equal(one.query[2], three.query[2])
    action = torch.cat([three.support[2].flatten(), three.query[2].flatten()])
    assert len(action.unique()) == action.numel()
    assert float(action.mean().abs()) < 4 / action.numel() ** 0.5  # of a standard normal
    assert float(action.std()) == pytest.approx(1, abs=0.1)


def test_the_judged_trajectories_are_the_same_chance_for_every_number_of_inner_steps() -> None:
    model, tasks = problem(inner_lr=1e-9)
    returns = []
    for steps in (0, 2):
        h = algorithms.hparams("maml", {"inner_lr": 1e-9, "eval_steps": steps})
        returns.append(collected(model._replace(h=h), tasks).query[1].reward)
    torch.testing.assert_close(*returns, atol=1e-5, rtol=0)  # a step of 1e-9 is hardly any


def moves_of(reward: Tensor, is_on: Tensor, x: Tensor | None = None, **fields: Any) -> Tensor:
    environment = Environment(cast(Any, None), cast(Any, None), cast(Any, None), 1, 1, 1, False, **fields)
    return rollouts.advantages(environment, torch.zeros(*reward.shape, 1) if x is None else x, reward, is_on)


def walks(m: int = 4, horizon: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Draw rewards, ends and observations."""
    generator = seeds.generator("walks")
    reward, x = (
        torch.randn(m, horizon, *shape, generator=generator, dtype=torch.float64) for shape in ((), (2,))
    )
    length = torch.tensor([horizon, 3, horizon - 1, 1])
    is_on = (torch.arange(horizon) < length[:, None]).double()
    return reward * is_on, is_on, x


def standardised(raw: Tensor, is_on: Tensor) -> Tensor:
    chosen = raw[is_on > 0]
    return (raw - chosen.mean()) / chosen.std(correction=0) * is_on


def test_without_baseline_advantages_are_returns_to_go_of_what_is_left() -> None:
    reward, is_on, _ = walks()
    expected = torch.zeros_like(reward)
    for m in range(4):
        for t in range(7):
            expected[m, t] = sum(0.9 ** (later - t) * reward[m, later] for later in range(t, 7))
    out = moves_of(reward, is_on, baseline="zero", gamma=0.9)
    torch.testing.assert_close(
        out, standardised(expected, is_on), atol=1e-6, rtol=0
    )  # 1e-8 beside the deviation


def test_generalised_advantages_are_discounted_sums_of_temporal_differences() -> None:
    reward, is_on, x = walks()
    value = rollouts.BASELINES["linear"](x, rollouts.discounted(reward, 0.9), is_on) * is_on
    expected = torch.zeros_like(reward)
    for m in range(4):
        for t in reversed(range(int(is_on[m].sum()))):
            later = t + 1 < int(is_on[m].sum())
            delta = reward[m, t] + (0.9 * value[m, t + 1] if later else 0) - value[m, t]
            expected[m, t] = delta + (0.9 * 0.8 * expected[m, t + 1] if later else 0)
    out = moves_of(reward, is_on, x, gamma=0.9, gae=0.8)
    torch.testing.assert_close(out, standardised(expected, is_on), atol=1e-6, rtol=0)


def test_without_a_future_an_advantage_is_the_reward_less_the_baseline() -> None:
    reward, is_on, x = walks()
    value = rollouts.BASELINES["time"](x, reward, is_on)
    out = moves_of(reward, is_on, x, gamma=0.0, baseline="time")
    torch.testing.assert_close(out, standardised(reward - value, is_on), atol=1e-6, rtol=0)


def test_the_linear_baseline_leaves_nothing_that_its_features_could_explain() -> None:
    _, is_on, x = walks()
    inside = 2 + x[..., 0] - 3 * x[..., 1] ** 2
    fitted = rollouts.BASELINES["linear"](x, inside, is_on)
    # The ridge of 1e-5 holds weights of 3 back by that share of a dozen rows' squares.
    torch.testing.assert_close(fitted * is_on, inside * is_on, atol=1e-4, rtol=0)
    features = torch.cat([x, x**2, torch.ones(4, 7, 1)], -1)
    outside = torch.sin(7 * x[..., 0])
    residual = (outside - rollouts.BASELINES["linear"](x, outside, is_on)) * is_on
    left = torch.einsum("mtf,mt->f", features, residual)
    assert float(left.abs().max()) < 1e-3  # the ridge times the weights


def test_what_follows_an_end_changes_nothing() -> None:
    reward, is_on, x = walks()
    generator = seeds.generator("after")
    other = torch.randn(reward.shape, generator=generator, dtype=torch.float64) * (1 - is_on)
    moves = Moves(x, moves_of(reward, is_on, x), other, reward, is_on)
    assert float((moves.advantage * (1 - is_on)).abs().max()) == 0
    outputs = torch.cat([x, x], -1).flatten(0, 1)
    for loss in SURROGATES.values():
        first = loss(outputs, moves._replace(log_prob=log_prob(outputs.view(4, 7, -1), x)))
        changed = moves._replace(log_prob=log_prob(outputs.view(4, 7, -1), x) + other)
        assert float(first - loss(outputs, changed)) == 0


def walked(goals: Tensor, policy: Any, **options: Any) -> Tensor:
    """Return the mean return of a policy of place and goal, without chance."""
    environment = (
        data.get("navigation")
        .load(None, "uniform", data.get("navigation").options(environments=10, oracle=True, **options))
        .environment
    )
    total = []
    for goal in goals:
        chances = Chances(goal, goal.new_zeros(1, 0), goal.new_zeros(1, 100, 2), goal.new_zeros(1, 100, 0))
        acts = lambda x: torch.cat([policy(x[:, :2], x[:, 2:]), x.new_zeros(len(x), 2)], -1)  # noqa: E731
        moves = cast(Moves, rollouts.roll(cast(Environment, environment), acts, chances).y)
        total.append((moves.reward * moves.is_on).sum())
    return torch.stack(total).mean()


def test_published_goals_give_the_returns_that_are_known_of_them() -> None:
    splits = data.load(small.acting("maml", "navigation").task.model_copy(update={"split": "published"}))
    torch.testing.assert_close(splits.meta_test.images.double(), GOALS, atol=1e-7, rtol=0)
    # Straight to the goal, as computed apart from this package; and standing still, at the goal's distance.
    assert float(walked(GOALS, lambda place, goal: (goal - place) * 10)) == pytest.approx(-0.544, abs=5e-4)
    assert float(walked(GOALS, lambda place, goal: 0 * place)) == pytest.approx(-100 * float(GOALS.norm(dim=1).mean()))
