"""Environments do what their equations say, and who knows one does better in it than who does not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from metabench import data
from metabench.core import MetabenchError, Split, Splits, seeds
from metabench.core.control import Chances, Environment, Moves, mean_return
from metabench.data.sets import _module, cartpole, half_cheetah, pendulum, tabular
from metabench.training import rollouts
from tests.support import small

NAMES = [name for name in data.names() if data.get(name).kind_of({}) == "control"]
ALL = pytest.mark.parametrize("name", NAMES)
ALL_THERE_ARE = {"navigation_sparse": 4, "half_cheetah": 2}
"""Environments of data sets that have few, so that splits share them."""


def load(name: str, **options: Any) -> Splits:
    if not data.get(name).is_available(None):
        pytest.skip(f"what {name} needs is not installed")
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
    assert len(rows.unique(dim=0)) == ALL_THERE_ARE.get(name, 48)


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


def test_only_progress_outside_and_towards_the_nearest_corner_is_paid() -> None:
    environment, goal = environment_of(load("navigation_sparse")), torch.tensor([2.0, -2.0])

    def paid(x: float, y: float) -> float:
        place = torch.tensor([x, y])
        return float(environment.step(goal, place, torch.tensor([9.0, -0.1]), torch.zeros(0))[1])

    def away(x: float, y: float) -> float:
        return math.hypot(2 - x, -2 - y)

    assert paid(0.1, 0.0) == 0  # within: 0.3 and -0.1
    assert paid(0.3, -0.1) == pytest.approx(away(0.3, -0.1) - away(0.5, -0.2))
    assert paid(0.6, 0.5) == paid(-0.9, -0.5) == 0  # nearest to another corner
    assert paid(2.5, -2.0) < 0  # past it
    starts = vmap(lambda u: environment.reset(goal, u))(torch.rand(1_000, 2))
    assert 0.19 < float(starts.abs().max()) <= 0.2


NOTHING_HIDDEN = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
NO_CHANCE = torch.zeros(0, dtype=torch.float64)


def test_where_nothing_is_hidden_a_cart_moves_as_gymnasiums_does() -> None:
    theirs = pytest.importorskip("gymnasium").make("CartPole-v1").unwrapped
    environment, generator = environment_of(load("cartpole")), seeds.generator("carts")
    for _ in range(3):
        state = (torch.rand(4, generator=generator, dtype=torch.float64) - 0.5) * 0.4
        theirs.reset(seed=0)
        theirs.state = state.numpy().copy()
        for action in torch.randint(2, (30,), generator=generator):
            state, _, done = environment.step(NOTHING_HIDDEN, state, action, NO_CHANCE)
            _, _, theirs_done, *_ = theirs.step(int(action))
            torch.testing.assert_close(state, torch.tensor(theirs.state).double(), atol=1e-9, rtol=0)
            assert bool(done) == theirs_done
            if done:
                break


def test_where_nothing_is_hidden_a_pendulum_moves_as_gymnasiums_does() -> None:
    theirs = pytest.importorskip("gymnasium").make("Pendulum-v1").unwrapped
    environment, generator = environment_of(load("pendulum")), seeds.generator("pendulums")
    state = torch.tensor([2.5, -0.7], dtype=torch.float64)
    theirs.reset(seed=0)
    theirs.state = state.numpy().copy()
    for action in torch.randn(60, 1, generator=generator, dtype=torch.float64) * 3:
        state, reward, _ = environment.step(NOTHING_HIDDEN, state, action, NO_CHANCE)
        seen, theirs_reward, *_ = theirs.step(action.numpy())
        torch.testing.assert_close(state, torch.tensor(theirs.state).double(), atol=1e-9, rtol=0)
        observed = environment.observe(NOTHING_HIDDEN, state)
        torch.testing.assert_close(observed.float(), torch.tensor(seen).float(), atol=1e-6, rtol=0)
        assert float(reward) == pytest.approx(float(theirs_reward), abs=1e-9)


def test_without_mujoco_a_half_cheetah_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_cheetah, "is_installed", lambda: False)
    with pytest.raises(MetabenchError, match=r"needs gymnasium and mujoco; .* 'metabench\[mujoco\]'$"):
        half_cheetah._model()


@pytest.mark.parametrize("split", ["direction", "velocity"])
def test_a_half_cheetah_runs_as_gymnasiums_does(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco")
    pytest.importorskip("imageio")  # which gymnasium wants for pictures
    monkeypatch.chdir(tmp_path)  # where MuJoCo leaves what it warns of
    make = pytest.importorskip("gymnasium").make
    theirs = make("HalfCheetah-v5", ctrl_cost_weight=half_cheetah.EFFORT).unwrapped
    task = small.acting(dataset="half_cheetah").task.model_copy(update={"split": split})
    environment, horizon = environment_of(data.load(task)), 10
    asked = torch.tensor([[-1.0], [1.7]], dtype=torch.float64)
    start, action = (
        torch.rand(2, 3, *shape, generator=seeds.generator("cheetahs"), dtype=torch.float64)
        for shape in ((18,), (horizon, 6))
    )
    chances = Chances(asked, start, 4 * action - 2, torch.zeros(2, 3, horizon, 0, dtype=torch.float64))
    walked = vmap(lambda one: rollouts.roll(environment, lambda x: x.new_zeros(len(x), 12), one))(chances)
    seen, moves = walked.x.view(2, 3, horizon, -1), cast(Moves, walked.y)
    for one, trajectory in itertools.product(range(2), range(3)):
        wanted, at = float(asked[one]), (one, trajectory)
        theirs.reset(seed=0)
        theirs.set_state(*environment.reset(asked[one], start[at]).numpy().reshape(3, 9)[:2])
        theirs.data.qacc_warmstart[:] = 0
        for time, pushed in enumerate(chances.action[at].clamp(-1, 1).numpy()):
            observed, _, _, _, info = theirs.step(pushed)
            speed = info["x_velocity"]
            gained = wanted * speed if split == "direction" else -abs(speed - wanted)
            assert float(moves.reward[at][time]) == pytest.approx(gained + info["reward_ctrl"], abs=1e-9)
            if time + 1 < horizon:
                torch.testing.assert_close(seen[at][time + 1], torch.tensor(observed), atol=1e-9, rtol=0)


def test_a_half_cheetah_that_is_lost_does_not_begin_anew_and_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.chdir(tmp_path)
    run = half_cheetah.simulator()
    states, actions = (
        torch.rand(4, n, generator=seeds.generator("lost"), dtype=torch.float64) for n in (27, 6)
    )
    expected = run(states, actions)
    lost = states.clone()
    lost[0, 3], lost[2, 12] = float("nan"), 1e30
    after = run(lost, actions)
    assert not after[0].isfinite().all()
    assert not (after[2].abs() < 1e10).all()
    assert torch.equal(after[1::2], expected[1::2])
    assert not [*tmp_path.iterdir()]


def rod(state: Tensor, mass: Tensor, length: Tensor) -> Tensor:
    """Return the energy of a rod that turns about one end, its angle 0 upright."""
    angle, turn = state.unbind()
    return mass * length**2 / 6 * turn**2 + mass * pendulum.GRAVITY * length / 2 * angle.cos()


def cart(state: Tensor, mass: Tensor, half: Tensor) -> Tensor:
    """Return the energy of a cart with a rod upon it, which turns about its middle, too."""
    _, speed, angle, turn = state.unbind()
    along, up = speed + half * turn * angle.cos(), half * turn * angle.sin()
    moving = cartpole.CART * speed**2 + mass * (along**2 + up**2) + mass * half**2 / 3 * turn**2
    return moving / 2 + mass * cartpole.GRAVITY * half * angle.cos()


@pytest.mark.parametrize(
    ("move", "energy", "state", "work"),
    [
        (pendulum.move, rod, [1.1, 0.7], 0.7),  # what a torque does is itself times the turn
        (cartpole.move, cart, [0.3, -0.8, 0.4, 0.9], -0.8),  # and a force, times the speed
    ],
)
def test_energy_grows_by_the_work_that_is_done(
    move: Any, energy: Any, state: list[float], work: float
) -> None:
    at = torch.tensor(state, dtype=torch.float64)
    mass, length = (torch.tensor(one, dtype=torch.float64) for one in (1.3, 0.8))
    for push in (0.0, 1.5):
        errors = []
        for seconds in (1e-3, 1e-4):
            after = move(at, torch.tensor(push, dtype=torch.float64), mass, length, seconds)
            gained = energy(after, mass, length) - energy(at, mass, length)
            errors.append(abs(float(gained / seconds) - push * work))
        # Euler's rule is of first order: a tenth of the time, a tenth of the error.
        assert errors[0] < 0.1
        assert errors[1] == pytest.approx(errors[0] / 10, rel=0.1)


def test_a_reversed_machine_takes_the_opposite_action() -> None:
    reversed_ = NOTHING_HIDDEN * torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    cases = {"cartpole": [torch.tensor(0), torch.tensor(1)], "pendulum": [torch.ones(1), -torch.ones(1)]}
    for name, actions in cases.items():
        environment = environment_of(load(name))
        state = torch.full((4 if name == "cartpole" else 2,), 0.02, dtype=torch.float64)
        for one, other in (actions, actions[::-1]):
            plain = environment.step(NOTHING_HIDDEN, state, one, NO_CHANCE)[0]
            turned = environment.step(reversed_, state, other, NO_CHANCE)[0]
            torch.testing.assert_close(plain, turned)


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
    environment = environment_of(load("tabular", states=2, actions=2, horizon=3))
    parameters = tabular.draw(2, 2, 1, seeds.generator("plans"))[0]
    returns = []
    for plan in itertools.product(itertools.product(range(2), repeat=2), repeat=3):
        at, total = torch.tensor([1.0, 0.0], dtype=torch.float64), 0.0
        for actions in plan:
            pairs = torch.tensor([2 * state + action for state, action in enumerate(actions)])
            total += float(at @ means[pairs])
            at = at @ likely[pairs]
        returns.append(total)
    assert value(likely, means, 2, 3) == pytest.approx(max(returns))
    assert float(best(environment)(parameters)) == pytest.approx(max(returns))


def best(environment: Environment) -> Callable[[Tensor], Tensor]:
    assert environment.best is not None
    return environment.best


def test_the_best_return_is_that_of_the_shortest_way_and_of_the_best_arm() -> None:
    goal = torch.tensor([0.25, -0.05], dtype=torch.float64)
    # After one step 0.15 is left along one axis and nothing along the other, then 0.05, then nothing.
    assert float(best(environment_of(load("navigation")))(goal)) == pytest.approx(-0.2)
    published = load("navigation", horizon=100, environments=20_000).meta_test.images.double()
    worth = vmap(best(environment_of(load("navigation", horizon=100))))(published)
    assert float(worth.mean()) == pytest.approx(-0.507, abs=4 * float(worth.std()) / len(worth) ** 0.5)
    arms = torch.tensor([0.1, 0.7, 0.4, 0.2, 0.5])
    assert float(best(environment_of(load("bandit")))(arms)) == pytest.approx(0.7)


def test_who_knows_an_environment_does_better_than_who_does_not() -> None:
    arms = load("bandit").meta_test.images
    assert float(arms.max(1).values.mean()) > float(arms.mean(0).max()) + 0.2
    goals = load("navigation").meta_test.images
    # Ten steps: who walks straight is there after five; who knows no goal does best at the origin.
    steps = torch.arange(1, 11)[:, None, None]
    left = (goals.abs() - 0.1 * steps).clamp(min=0).norm(dim=-1).sum(0)
    assert float(left.mean()) < float(10 * goals.norm(dim=1).mean()) / 2
    # Whichever way one goes without knowing, it is right for about a quarter of the corners.
    assert float(load("navigation_sparse", environments=400).meta_test.images.mean(0).norm()) < 1
    assert machine("cartpole", steers=True) > machine("cartpole", steers=False) + 20
    assert machine("pendulum", steers=True) > machine("pendulum", steers=False) + 50
    tables = load("tabular").meta_test.images.double()
    best = [value(*tabular.table(one, 4, 3), 4, 5) for one in tables]
    likely, means = tabular.table(tables.mean(0), 4, 3)
    assert sum(best) / len(best) > value(likely, means, 4, 5) + 1


def machine(name: str, steers: bool) -> float:
    """Return the mean return of a controller that knows what is hidden, or takes it for nothing."""
    splits = load(name, environments=200, horizon=100)
    environment, parameters = environment_of(splits), splits.meta_test.images.double()
    zeros = parameters.new_zeros(environment.horizon, environment.n_actions)

    def acts(hidden: Tensor, x: Tensor) -> Tensor:
        sign, target = hidden[0], hidden[1]
        if environment.is_discrete:
            place, speed, angle, turn = x.T
            lean = 0.1 * (target - place).clamp(-0.5, 0.5) - 0.12 * speed
            push = sign * (10 * (angle - lean) + 2 * turn)
            return 100 * torch.stack([-push, push], 1)
        cos, sin, turn = x.T
        away = torch.atan2(sin * target.cos() - cos * target.sin(), cos * target.cos() + sin * target.sin())
        torque = sign * (-10 * away - 2 * turn)
        return torch.stack([torque, torch.full_like(torque, -20)], 1)

    def returned(hidden: Tensor) -> Tensor:
        shown = hidden if steers else NOTHING_HIDDEN
        start = parameters.new_full((1, environment.n_start), 0.6)
        chances = Chances(hidden, start, zeros[None], zeros[None, :, :0])
        return mean_return(None, cast(Moves, rollouts.roll(environment, lambda x: acts(shown, x), chances).y))

    return float(vmap(returned)(parameters).mean())


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
        ({"best": lambda goal: goal}, "best returned float32 [1]; [] is needed"),
        ({"best": lambda goal: goal[3]}, "best raised IndexError"),
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
