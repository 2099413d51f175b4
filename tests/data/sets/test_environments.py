"""Environments do what their equations say, and who knows one does better in it than who does not."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from metabench import data
from metabench.core import MetabenchError, Split, Splits, seeds
from metabench.core.control import Chances, Environment, Moves, mean_return
from metabench.data.sets import _module, tabular
from metabench.training import rollouts
from tests.support import small

NAMES = [name for name in data.names() if data.get(name).kind_of({}) == "control"]
ALL = pytest.mark.parametrize("name", NAMES)


def load(name: str, **options: Any) -> Splits:
    return data.load(
        small.acting(dataset=name).task.model_copy(
            update={"options": {**small.ENVIRONMENTS[name], **options}}
        )
    )


def environment_of(splits: Splits) -> Environment:
    return cast(Environment, splits.environment)


@ALL
def test_an_environment_has_the_shapes_that_it_says(name: str) -> None:
    splits = load(name)
    environment, parameters = environment_of(splits), splits.meta_test.images[0]
    state = environment.reset(parameters, torch.rand(environment.n_start))
    action = torch.tensor(0) if environment.is_discrete else torch.zeros(environment.n_actions)
    for _ in range(min(3, environment.horizon)):
        assert environment.observe(parameters, state).shape == (environment.n_observed,)
        new, reward, done = environment.step(parameters, state, action, torch.rand(environment.n_world))
        assert (new.shape, new.dtype) == (state.shape, state.dtype)
        assert (reward.shape, done.shape) == ((), ())
        assert (reward.dtype, float(done) in (0, 1)) == (parameters.dtype, True)
        state = new


@ALL
def test_the_oracle_sees_the_parameters_and_its_tasks_are_the_same(name: str) -> None:
    plain, oracle = load(name), load(name, oracle=True)
    assert plain.fingerprint == oracle.fingerprint
    parameters = oracle.meta_test.images[0]
    environment = environment_of(oracle)
    seen = environment.observe(parameters, environment.reset(parameters, torch.rand(environment.n_start)))
    assert torch.equal(seen[environment_of(plain).n_observed :], parameters)
    assert len(seen) == environment.n_observed


@ALL
def test_more_environments_keep_the_first_ones_and_splits_share_none(name: str) -> None:
    few, many = load(name, environments=20), load(name, environments=40)
    assert torch.equal(few.meta_train.images, many.meta_train.images[:20])
    rows = torch.cat([many.meta_train.images, many.meta_validation.images, many.meta_test.images])
    assert len(rows.unique(dim=0)) == 48


def test_a_walk_is_as_fast_as_it_may_be_and_ends_at_the_goal() -> None:
    environment, goal = environment_of(load("navigation")), torch.tensor([0.25, -0.05])
    place, reward, done = environment.step(goal, torch.zeros(2), torch.tensor([7.0, -0.5]), torch.zeros(0))
    torch.testing.assert_close(place, torch.tensor([0.1, -0.05]))
    assert float(reward) == pytest.approx(-0.15)
    assert float(done) == 0
    beside = torch.tensor([0.1, 0.0])
    assert float(environment.step(goal, goal - beside, torch.tensor([0.95, 0.0]), torch.zeros(0))[2]) == 1
    assert float(environment.step(goal, goal - beside, torch.tensor([0.85, 0.0]), torch.zeros(0))[2]) == 0
    on = environment_of(load("navigation", stop_at_goal=False))
    assert float(on.step(goal, goal - beside, torch.tensor([0.95, 0.0]), torch.zeros(0))[2]) == 0


def test_an_arm_pays_as_often_as_its_chance_says() -> None:
    splits = load("bandit")
    environment, chances = environment_of(splits), splits.meta_test.images[0]
    u = torch.rand(20_000, 1, generator=seeds.generator("pulls"))
    for arm in range(5):
        pull = lambda one, arm=arm: environment.step(chances, torch.zeros(1), torch.tensor(arm), one)[1]  # noqa: E731
        paid = float(vmap(pull)(u).mean())
        assert paid == pytest.approx(float(chances[arm]), abs=4 * 0.5 / 20_000**0.5)


def test_transitions_and_rewards_are_those_of_the_table() -> None:
    splits = load("tabular")
    environment, parameters = environment_of(splits), splits.meta_test.images[0].double()
    likely, means = tabular.table(parameters, 4, 3)
    torch.testing.assert_close(likely.sum(1), torch.ones(12, dtype=torch.float64), atol=1e-6, rtol=0)
    n = 20_000
    u = torch.rand(n, 2, generator=seeds.generator("steps"), dtype=torch.float64)
    to, reward, _ = vmap(lambda one: environment.step(parameters, torch.tensor(2), torch.tensor(1), one))(u)
    torch.testing.assert_close(to.bincount(minlength=4) / n, likely[7].float(), atol=4 * 0.5 / n**0.5, rtol=0)
    assert float(reward.mean()) == pytest.approx(float(means[7]), abs=4 / n**0.5)
    assert float(reward.std()) == pytest.approx(1, abs=4 / n**0.5)


def test_tables_are_drawn_as_they_say() -> None:
    drawn = tabular.draw(4, 3, 2_000, seeds.generator("tables"))
    likely, means = drawn[:, :48].reshape(-1, 4), drawn[:, 48:]
    # A component of a uniform distribution over four has mean 1/4 and variance 3/80.
    assert likely.mean(0).tolist() == pytest.approx([0.25] * 4, abs=4 * (3 / 80 / len(likely)) ** 0.5)
    assert float(likely.var()) == pytest.approx(3 / 80, rel=0.05)
    assert (float(means.mean()), float(means.std())) == pytest.approx((1, 1), abs=4 / means.numel() ** 0.5)


def value(likely: Tensor, means: Tensor, n_states: int, horizon: int) -> float:
    """Return the largest expected return from the first state, by backward induction."""
    best = torch.zeros(n_states, dtype=likely.dtype)
    for _ in range(horizon):
        best = (means + likely @ best).view(n_states, -1).max(1).values
    return float(best[0])


def test_backward_induction_finds_the_best_of_all_plans() -> None:
    likely, means = tabular.table(tabular.draw(2, 2, 1, seeds.generator("plans"))[0], 2, 2)
    returns = []
    for plan in itertools.product(itertools.product(range(2), repeat=2), repeat=3):
        at, total = torch.tensor([1.0, 0.0], dtype=torch.float64), 0.0
        for actions in plan:
            pairs = torch.tensor([2 * state + action for state, action in enumerate(actions)])
            total += float(at @ means[pairs])
            at = at @ likely[pairs]
        returns.append(total)
    assert value(likely, means, 2, 3) == pytest.approx(max(returns))


def test_who_knows_an_environment_does_better_than_who_does_not() -> None:
    arms = load("bandit").meta_test.images
    assert float(arms.max(1).values.mean()) > float(arms.mean(0).max()) + 0.2
    goals = load("navigation").meta_test.images
    # Ten steps: who walks straight is there after five; who knows no goal does best at the origin.
    steps = torch.arange(1, 11)[:, None, None]
    left = (goals.abs() - 0.1 * steps).clamp(min=0).norm(dim=-1).sum(0)
    assert float(left.mean()) < float(10 * goals.norm(dim=1).mean()) / 2
    tables = load("tabular").meta_test.images.double()
    best = [value(*tabular.table(one, 4, 3), 4, 5) for one in tables]
    likely, means = tabular.table(tables.mean(0), 4, 3)
    assert sum(best) / len(best) > value(likely, means, 4, 5) + 1


def made(step: Any = None, **changes: Any) -> Splits:
    """Return splits with an environment of one number on a line, as somebody may have written it."""

    def move(goal: Tensor, state: Tensor, action: Tensor, chance: Tensor) -> Any:
        state = state + action
        return state, -(state - goal).square().sum(), (state > goal)[0]

    def make() -> Splits:
        train, val, test = (
            Split(torch.full((2, 1), float(k)), (f"{k}a", f"{k}b"), ("line",) * 2) for k in range(3)
        )
        environment = Environment(
            lambda goal, chance: torch.zeros(1), lambda goal, state: state, step or move, 5, 1, 1, False
        )
        return Splits(
            "line",
            train,
            val,
            test,
            fingerprint="",
            kind="control",
            environment=environment._replace(**changes),
        )

    vars(make)["kind"] = "control"
    dataset = _module.of("line", make)
    return dataset.load(None, "own", dataset.options())


@pytest.mark.parametrize("end", [False, 0.0, True, torch.tensor(False)])
def test_an_end_may_be_a_truth_value_or_a_number(end: Any) -> None:
    splits = made(lambda goal, state, action, chance: (state, 1.0, end))
    chances = Chances(torch.zeros(1), torch.zeros(3, 0), torch.zeros(3, 5, 1), torch.zeros(3, 5, 0))
    moves = rollouts.roll(environment_of(splits), lambda x: x.new_zeros(3, 2), chances).y
    assert mean_return(None, cast(Moves, moves)) == (1 if end else 5)


def test_an_end_that_depends_on_the_state_may_be_a_truth_value() -> None:
    chances = Chances(torch.zeros(1), torch.zeros(3, 0), torch.ones(3, 5, 1), torch.zeros(3, 5, 0))
    moves = rollouts.roll(environment_of(made()), lambda x: x.new_zeros(3, 2), chances).y
    assert mean_return(None, cast(Moves, moves)) == -1  # one step of 1, after which it has ended


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 0}, "horizon=0; must be a whole number of at least 1"),
        ({"n_world": -1}, "n_world=-1; must be a whole number of at least 0"),
        ({"gamma": 2}, "gamma=2; must be a number from 0 to 1"),
        ({"baseline": "lin"}, "baseline='lin': unknown. Did you mean 'linear'? Allowed: linear, time, zero"),
        ({"surrogate": "x"}, "surrogate='x': unknown. Allowed: log_likelihood, likelihood_ratio, dice"),
        (
            {"n_observed": 3},
            "observe returned float32 [1] of a state float32 [1]; n_observed=3 needs float32",
        ),
        ({"n_actions": 3}, "observe returned float32 [3] of a state float32 [3]; n_observed=1 needs"),
        ({"reset": lambda goal, chance: chance[0]}, "reset raised IndexError"),
        ({"step": lambda *now: (now[1], 0.0)}, "step raised ValueError: not enough values"),
        ({"step": lambda *now: (now[1], now[1], 0)}, "step returned a reward of shape [1]; [] is needed"),
        ({"step": lambda *now: (now[1], 0.0, now[1])}, "step returned an end of shape [1]; [] is needed"),
        ({"step": lambda *now: (now[1] + now[2][:2] @ torch.ones(2), 0.0, 0)}, "action float32 [1], chance"),
    ],
)
def test_each_mistake_in_an_environment_is_one_message(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        made(**changes)
    assert str(caught.value).startswith("dataset='line': environment: ")
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
