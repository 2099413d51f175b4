"""Collecting trajectories: chance by name, advantages by definition, and ends that count."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from metabench import algorithms, data
from metabench.algorithms import _inner_loop as inner
from metabench.core import MetabenchError, Task, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.control import SURROGATES, Chances, Environment, Moves, log_prob, mean_return
from metabench.data.sets import tabular
from metabench.data.tasks import frozen
from metabench.training import evaluate, loop, rollouts, run, vectorise
from metabench.training.graphs.trace import TraceCache
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
    x = torch.zeros(*reward.shape, 1) if x is None else x
    return rollouts.advantages(environment, x, reward, is_on)[0]


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


def test_what_advantages_are_divided_by_makes_them_returns_again() -> None:
    model, tasks = problem(dataset="bandit")
    environment = cast(Environment, model.net.environment)._replace(baseline="zero")
    query = cast(
        Task, collected(model._replace(net=model.net._replace(environment=environment)), tasks)
    ).query
    moves = cast(Moves, query.y)
    assert moves.scale is not None
    less = moves.reward - moves.reward.mean((1, 2), keepdim=True)
    torch.testing.assert_close(moves.advantage * moves.scale[:, None, None], less)


def test_generalised_advantages_are_discounted_sums_of_temporal_differences() -> None:
    reward, is_on, x = walks()
    value = rollouts.BASELINES["time"](x, rollouts.discounted(reward, 0.9), is_on)
    expected = torch.zeros_like(reward)
    for m in range(4):
        for t in reversed(range(int(is_on[m].sum()))):
            later = t + 1 < int(is_on[m].sum())
            delta = reward[m, t] + (0.9 * value[m, t + 1] if later else 0) - value[m, t]
            expected[m, t] = delta + (0.9 * 0.8 * expected[m, t + 1] if later else 0)
    out = moves_of(reward, is_on, x, gamma=0.9, gae=0.8, baseline="time")
    torch.testing.assert_close(out, standardised(expected, is_on), atol=1e-6, rtol=0)


def test_without_a_future_an_advantage_is_the_reward_less_the_baseline() -> None:
    reward, is_on, x = walks()
    value = rollouts.BASELINES["time"](x, reward, is_on)
    out = moves_of(reward, is_on, x, gamma=0.0, baseline="time")
    torch.testing.assert_close(out, standardised(reward - value, is_on), atol=1e-6, rtol=0)


def test_with_no_baseline_an_advantage_is_the_return_to_go_as_it_is() -> None:
    reward, is_on, x = walks()
    expected = rollouts.discounted(reward * is_on, 0.9)
    torch.testing.assert_close(moves_of(reward, is_on, x, gamma=0.9, baseline="none"), expected)


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


def walked(goals: Tensor, policy: Any) -> tuple[float, float]:
    """Return the mean return, and steps, of a policy of place and goal, which leaves nothing to chance."""
    options = data.get("navigation").options(environments=10, oracle=True)
    environment = data.get("navigation").load(None, "uniform", options).environment
    nothing = (goals.new_zeros(1, *shape) for shape in ((0,), (100, 2), (100, 0)))

    def acts(x: Tensor) -> Tensor:
        return torch.cat([policy(x[:, :2], x[:, 2:]), x.new_zeros(len(x), 2)], -1)

    def returned(goal: Tensor, *chances: Tensor) -> tuple[Tensor, Tensor]:
        moves = cast(Moves, rollouts.roll(environment, acts, Chances(goal, *chances)).y)
        return mean_return(None, moves), moves.is_on.sum()

    of_goals = vmap(returned, in_dims=(0, None, None, None))(goals, *nothing)
    return float(of_goals[0].mean()), float(of_goals[1].mean())


def test_published_goals_give_the_returns_that_are_known_of_them() -> None:
    task = small.acting().task.model_copy(update={"split": "published"})
    torch.testing.assert_close(data.load(task).meta_test.images.double(), GOALS, atol=1e-7, rtol=0)
    # Straight to the goal, as computed apart from this package; and standing still, at the goal's distance.
    fewest = float(((GOALS.abs().amax(1) - 0.01) / 0.1).ceil().mean())
    straight = walked(GOALS, lambda place, goal: (goal - place) * 10)
    assert straight == pytest.approx((-0.544, fewest), abs=5e-4)
    walk = data.get("navigation").load(None, "uniform", data.get("navigation").options(environments=10))
    assert walk.environment is not None
    assert walk.environment.best is not None
    assert float(vmap(walk.environment.best)(GOALS).mean()) == pytest.approx(straight[0], abs=1e-6)
    away = float(GOALS.norm(dim=1).mean())
    assert walked(GOALS, lambda place, goal: 0 * place) == pytest.approx((-100 * away, 100))


@pytest.mark.parametrize("name", ["maml", "anil", "meta_sgd", "alpha_maml"])
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_meta_gradient_is_the_slope_of_the_loss_on_what_was_collected(name: str, weight: float) -> None:
    model, tasks = problem(name, inner_steps=2, inner_lr=0.1, sampling_term=weight)
    fixed = part(collected(model, tasks), 0)
    net = model.net._replace(environment=None)

    def loss(meta: Any) -> Tensor:
        return model.algorithm.task_loss(net, meta, model.buffers, fixed, model.h, 0.5)[0]

    slope = grad(loss)(model.meta)
    one = vectorise.meta_gradient(model, part(tasks, slice(0, 1)), 0.5).gradient
    torch.testing.assert_close(one, slope, atol=1e-12, rtol=1e-7)
    generator = seeds.generator("direction")
    way = trees.map(
        lambda leaf: 1e-5 * torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype), model.meta
    )
    ahead, behind = (loss(trees.map(move, model.meta, way)) for move in (torch.add, torch.sub))
    # The difference errs by 1e-10 of third derivatives, and by 1e-16 / 1e-5 of rounding.
    assert float(trees.dot(slope, way)) == pytest.approx(float(ahead - behind) / 2, rel=1e-5)


def test_without_an_inner_step_or_rate_the_meta_gradient_is_that_of_joint_training() -> None:
    joint, tasks = problem("joint")
    expected = vectorise.meta_gradient(joint, tasks, 0.5)
    for values in ({"inner_lr": 0.0}, {"inner_steps": 0}):
        h = algorithms.hparams("maml", {"inner_steps": 2, **values})
        mean = vectorise.meta_gradient(joint._replace(algorithm=algorithms.get("maml"), h=h), tasks, 0.5)
        torch.testing.assert_close(mean.gradient, expected.gradient, atol=1e-12, rtol=1e-9)
        torch.testing.assert_close(mean.logs["return"], expected.logs["return"])


def test_each_inner_step_descends_what_was_done_after_the_step_before() -> None:
    model, tasks = problem(inner_steps=2, inner_lr=0.3)
    task = part(collected(model, tasks), 0)
    net, h = model.net, model.h
    first = cast(Moves, task.support[1]).log_prob[0]
    theta = {"params": model.meta["theta"]}
    x = task.support[0].view(2, 5, 10, 2)

    def log_probs(learner: Any, step: int) -> Tensor:
        outputs = model.algorithm.predict(net, learner, x[step].flatten(0, 1)).view(5, 10, -1)
        return log_prob(outputs, cast(Moves, task.support[1]).action[step])

    torch.testing.assert_close(first, log_probs(theta, 0))
    one = model.algorithm.adapt(net, model.meta, {}, task.support, dataclasses.replace(h, eval_steps=1))
    torch.testing.assert_close(cast(Moves, task.support[1]).log_prob[1], log_probs(one, 1))
    assert float((log_probs(theta, 1) - log_probs(one, 1)).abs().max()) > 1e-3
    two = model.algorithm.adapt(net, model.meta, {}, task.support, dataclasses.replace(h, eval_steps=2))
    slope, _ = inner.gradient(
        partial(inner.support_loss, net), one["params"], {}, part(task.support, 1), "first"
    )
    expected = trees.map(lambda w, g: w - 0.3 * g, one["params"], slope)
    torch.testing.assert_close(two["params"], expected)


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_recorded_steps_give_the_same_numbers(weight: float) -> None:
    model, tasks = problem(inner_steps=1, sampling_term=weight)
    traces = TraceCache()
    plain, first, again = (
        vectorise.meta_gradient(model, tasks, 0.5, traces=each) for each in (None, traces, traces)
    )
    assert traces.n_composed == 1
    for one in (first, again):
        torch.testing.assert_close(one.gradient, plain.gradient, atol=1e-12, rtol=1e-12)


def test_frozen_tasks_are_kept_as_seeds_and_read_again(tmp_path: Path) -> None:
    config = small.acting()
    splits = data.load(config.task)
    tasks = frozen.frozen(splits, "meta_test", config.task, 5, "test")
    frozen.write(tmp_path / "tasks.safetensors", splits, "meta_test", config.task, "test", tasks)
    again = frozen.read(tmp_path / "tasks.safetensors", splits, "meta_test")
    assert again.hash == tasks.hash
    assert torch.equal(again.groups[0].indices.examples, tasks.groups[0].indices.examples)
    other = config.task.model_copy(update={"options": {**config.task.options, "stop_at_goal": False}})
    assert frozen.frozen(data.load(other), "meta_test", other, 5, "test").hash != tasks.hash


def test_what_cannot_be_learnt_from_is_refused_in_one_sentence() -> None:
    config = small.acting()
    splits = data.load(config.task)
    messages = {
        "way=5: navigation/uniform is control, where a task is one environment; set way to 1": {"way": 5},
        "shot=1: one trajectory is its own baseline": {"shot": 1},
        "query=1: one trajectory is its own baseline": {"query": 1},
        "unlabelled=3: navigation/uniform is control; this is for tasks of classes": {"unlabelled": 3},
    }
    for message, change in messages.items():
        with pytest.raises(MetabenchError, match=f"^{re.escape(message)}"):
            data.check(config.task.model_copy(update=change), splits)
    batch = config.model_copy(update={"network": NetworkConfig(name="mlp", width=8)})
    with pytest.raises(MetabenchError, match=r"^network.norm='batch': observations make no batch; set norm"):
        loop.build(batch, splits)
    with pytest.raises(MetabenchError, match=r"not for control .* For control: alpha_"):
        loop.build(config.model_copy(update={"algorithm": "protonet"}), splits)
    environment = cast(Environment, splits.environment)
    wrong = environment._replace(step=lambda *now: (now[1], torch.zeros(1), torch.zeros(())))
    chances = Chances(torch.zeros(2), torch.zeros(3, 0), torch.zeros(3, 10, 2), torch.zeros(3, 10, 0))
    with pytest.raises(MetabenchError, match=r"step returned a reward of shape \[1\]; \[\] is needed"):
        rollouts.roll(wrong, lambda x: x.new_zeros(3, 4), chances)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = small.acting(tasks=8).model_copy(update={"rungs": [8]})
    run.train_run(config, data.load(config.task), folder)
    return folder


def test_other_data_are_played_in_their_own_environment(trained: Path) -> None:
    task = small.acting().task
    splits = data.load(task)
    other = data.load(task.model_copy(update={"options": {**task.options, "horizon": 2}}))
    here, there = (
        run.test_run(trained, splits, 3, other=one, is_diagnosed=False)["return"] for one in (None, other)
    )
    model = run.open_run(trained, splits).model
    model = model._replace(net=model.net._replace(environment=other.environment))
    tasks = frozen.frozen(other, "meta_test", task, 3, "test")
    assert there == evaluate.test(model, other.meta_test.images, tasks).score.tolist()
    assert all(short > long for short, long in zip(there, here, strict=True))  # each step costs its distance


def test_data_of_other_actions_are_refused(trained: Path) -> None:
    splits = data.load(small.acting().task)
    wrong: dict[str, dict[str, Any]] = {
        "one of 2 actions": {"is_discrete": True},
        "actions of 3 numbers": {"n_actions": 3},
    }
    for words, change in wrong.items():
        other = splits._replace(environment=cast(Environment, splits.environment)._replace(**change))
        with pytest.raises(MetabenchError, match=f"chooses actions of 2 numbers, and .* takes {words}"):
            run.test_run(trained, splits, 3, other=other)


def test_one_trajectory_is_enough_only_without_baseline_and_over_steps() -> None:
    task = small.acting().task.model_copy(update={"shot": 1, "query": 1})
    for baseline in ("zero", "none"):
        alone = task.model_copy(update={"options": {**task.options, "baseline": baseline}})
        data.check(alone, data.load(alone))
    advice = r"query to 2 or more, or set the option baseline to zero or none$"
    with pytest.raises(MetabenchError, match=advice):
        data.check(task, data.load(task))
    for baseline in ("time", "zero", "none"):
        pulls = {**small.ENVIRONMENTS["bandit"], "baseline": baseline}
        one = task.model_copy(update={"dataset": "bandit", "options": pulls})
        if baseline == "none":
            data.check(one, data.load(one))
            continue
        advice = "or more, or set the option baseline to none"
        with pytest.raises(MetabenchError, match=f"^shot=1: .*2 {advice}\nquery=1: .*query to 2 {advice}$"):
            data.check(one, data.load(one))


def test_a_chance_stays_below_one_in_every_type() -> None:
    u = torch.tensor([0.0, 0.3, 1 - 1e-12], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        chance = rollouts.inside(u, dtype)
        assert 0 < chance[0] < chance[1] < chance[2] < 1
        assert chance[1] == u[1].to(dtype)
        state = torch.tensor(0)
        numbers = torch.cat([torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)])
        assert all(
            tabular.step(1, 1, numbers, state, state, torch.stack([one, one]))[1].isfinite() for one in chance
        )
