"""The meta-gradient with its sampling term against that of the return after adapting, all enumerated."""

from __future__ import annotations

import itertools
import re
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from metabench import algorithms, data
from metabench.core import MetabenchError, Net, Query, Support, Task, Tree, seeds, trees
from metabench.core.control import SURROGATES, Moves, log_prob, sampling
from metabench.core.objectives import OBJECTIVES
from metabench.training import loop
from tests.algorithms import problems
from tests.support import small

RATE = 4.0
"""Of inner steps, which are so long that a return is no line along them."""


class Process:
    """Two actions, and a world of two states that is left after so many steps: all its trajectories."""

    def __init__(self, horizon: int) -> None:
        generator = seeds.generator("process")
        to_second, rewards = torch.rand(2, 2, 2, generator=generator, dtype=torch.float64)
        paths = torch.tensor([*itertools.product(range(2), repeat=2 * horizon - 1)])  # a0 s1 a1 ...; s0 is 0
        self.action = paths[:, ::2]
        self.state = torch.cat([torch.zeros(len(paths), 1, dtype=torch.int64), paths[:, 1::2]], 1)
        to = to_second[self.state[:, :-1], self.action[:, :-1]]
        self.world = torch.where(self.state[:, 1:] == 1, to, 1 - to).prod(1)
        self.reward = 2 * rewards[self.state, self.action]
        self.to_go = self.reward.flip(1).cumsum(1).flip(1)
        self.x = torch.eye(2, dtype=torch.float64)[self.state]
        self.horizon = horizon

    def log_prob(self, theta: Tree) -> Tensor:
        head = theta["head"]
        return log_prob(self.x @ head["weight"].mT + head["bias"], self.action)

    def chance(self, theta: Tree) -> Tensor:
        return self.world * self.log_prob(theta).sum(1).exp()

    def sets(self, steps: int, trajectories: int) -> Tensor:
        """Return all that can come about before and between inner steps: [sets, K, M]."""
        rows = itertools.product(range(len(self.action)), repeat=steps * trajectories)
        return torch.tensor([*rows]).view(-1, steps, trajectories)


def network(surrogate: str) -> Net:
    net = problems.linear_network(2, OBJECTIVES["control"])
    objective = OBJECTIVES["control"]._replace(loss=SURROGATES[surrogate])
    return net._replace(outputs=2, way=2, objective=objective)


def start(name: str) -> Tree:
    generator = seeds.generator("policy")
    weight, bias = torch.randn(2, 3, generator=generator, dtype=torch.float64).split([2, 1], 1)
    theta = {"head": {"weight": weight, "bias": bias[:, 0]}}
    rates = trees.map(lambda leaf: torch.full_like(leaf, RATE), theta)
    return {"theta": theta, **({"alpha": rates} if name == "meta_sgd" else {})}


def returned(process: Process, meta: Tree, rows: Tensor) -> Tensor:
    """Return the chance of trajectories [K, M], times the expected return after the steps that they lead."""
    phi, chance = meta["theta"], torch.ones((), dtype=torch.float64)
    rates = meta.get("alpha", trees.map(lambda leaf: torch.full_like(leaf, RATE), phi))
    for batch in rows:

        def gain(phi: Tree, batch: Tensor = batch) -> Tensor:
            return (process.log_prob(phi) * process.to_go)[batch].mean()

        chance = chance * process.chance(phi)[batch].prod()
        phi = trees.map(lambda w, a, g: w + a * g, phi, rates, grad(gain)(phi))
    return chance * (process.chance(phi) * process.reward.sum(1)).sum()


def exact(process: Process, meta: Tree, sets: Tensor) -> Tree:
    return grad(lambda meta: vmap(partial(returned, process, meta))(sets).sum())(meta)


def walked(process: Process, name: str, net: Net, h: Any, meta: Tree, rows: Tensor) -> tuple[Task, Tensor]:
    """Return a task of trajectories [K, M], and their chance; the query is all that may follow, by chance."""
    algorithm = algorithms.get(name)

    def support(steps: int) -> Support:
        before = [adapted(step) for step in range(steps)]
        log_probs = [process.log_prob(phi)[batch] for phi, batch in zip(before, rows, strict=False)]
        of = rows[:steps]
        like = process.reward[of]
        old = torch.stack(log_probs) if steps else torch.zeros_like(like)
        # None of a batch's outputs and scale is looked at.
        moves = Moves(process.action[of], process.to_go[of], old, like, torch.ones_like(like), like, like)
        return Support(process.x[of].flatten(1, 2), cast(Tensor, moves))

    def adapted(steps: int) -> Tree:
        settings = algorithms.hparams(name, {**vars(h), "eval_steps": steps})
        return cast(Tree, algorithm.adapt(net, meta, {}, support(steps), settings)["params"])

    phis = [adapted(step) for step in range(len(rows) + 1)]
    chance = torch.stack([process.chance(phi)[b].prod() for phi, b in zip(phis, rows, strict=False)]).prod()
    share = (process.chance(phis[-1]) * len(process.action))[:, None]
    after = Moves(
        process.action,
        process.to_go * share,
        process.log_prob(phis[-1]),
        process.reward * share,
        torch.ones_like(process.reward),
    )
    query = Query(process.x.flatten(0, 1), cast(Tensor, after))
    return Task(support(len(rows)), query, torch.zeros(1)), chance


def expected(process: Process, name: str, sets: Tensor, surrogate: str, weight: float) -> Tree:
    """Return the slope of the return after adapting, as meta-gradients say it is on average."""
    net, meta = network(surrogate), start(name)
    values = {"inner_lr": RATE, "inner_steps": sets.shape[1], "sampling_term": weight}
    h = algorithms.hparams(name, values)

    def of(rows: Tensor) -> Tree:
        with torch.no_grad():
            task, chance = walked(process, name, net, h, meta, rows)
        slope = grad(lambda meta: algorithms.get(name).task_loss(net, meta, {}, task, h, 0.0)[0])(meta)
        return trees.map(lambda leaf: -leaf * chance * process.horizon, slope)

    return trees.map(lambda leaf: leaf.sum(0), vmap(of)(sets))


def error(process: Process, name: str, sets: Tensor, surrogate: str, weight: float) -> float:
    slope = expected(process, name, sets, surrogate, weight)
    apart = trees.map(torch.sub, slope, exact(process, start(name), sets))
    return max(float(leaf.abs().max()) for leaf in trees.leaves(apart))


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(
    ("horizon", "steps", "trajectories"), [(1, 1, 1), (1, 1, 4), (1, 3, 2), (2, 1, 2), (2, 2, 1)]
)
@pytest.mark.parametrize("name", ["maml", "anil", "meta_sgd"])
def test_with_its_sampling_term_a_meta_gradient_is_that_of_the_return_after_adapting(
    name: str, horizon: int, steps: int, trajectories: int, surrogate: str
) -> None:
    process = Process(horizon)
    assert error(process, name, process.sets(steps, trajectories), surrogate, weight=1.0) < 1e-13


@pytest.mark.parametrize("horizon", [1, 2])
def test_without_it_no_surrogate_has_that_gradient(horizon: int) -> None:
    process = Process(horizon)
    sets = process.sets(1, 2)
    errors = {name: error(process, "maml", sets, name, weight=0.0) for name in SURROGATES}
    assert min(errors.values()) > 3e-3, errors


def test_dice_without_it_is_nearer_the_more_trajectories_an_inner_step_has() -> None:
    # Its inner derivative is that of the expected step, which the mean of many trajectories comes near.
    process = Process(1)
    errors = [error(process, "maml", process.sets(1, n), "dice", 0.0) for n in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10
    assert error(process, "maml", process.sets(1, 8), "log_likelihood", 0.0) > 10 * errors[-1]


def term(before: Tensor, after: Tensor, scale: float | None) -> Tensor:
    """Return the slope by the log probability of trajectories of one step that had some returns."""
    before, after = before[:, None].double(), after[:, None].double()
    ones, chosen = torch.ones_like(before), torch.zeros(len(before), 1, dtype=torch.int64)
    spread = None if scale is None else torch.tensor(scale, dtype=torch.float64)
    moves = Moves(after, after, after, after, torch.ones_like(after), scale=spread)

    def of(logits: Tensor) -> Tensor:
        old = log_prob(torch.zeros(len(before), 1, 2, dtype=torch.float64), chosen)
        return sampling(logits, Moves(chosen, before, old, before, ones), moves)

    return grad(of)(torch.zeros(len(before), 2, dtype=torch.float64))[:, 0]


def test_a_trajectory_ought_to_be_likelier_by_what_is_gained_on_the_others() -> None:
    before, after = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0, 7.0])
    # The chance of the first of two actions grows by half of its logit.
    torch.testing.assert_close(term(before, after, None), -torch.tensor([2.0, 2.5, 4.5]).double() / 2)
    torch.testing.assert_close(term(before[:1], after, None), -torch.tensor([6.0]).double() / 2)


def test_it_is_on_the_scale_of_advantages_and_no_task_outweighs_others() -> None:
    before, after = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0, 7.0])
    wide = term(before, after, 1e3)
    torch.testing.assert_close(wide * 1e3, term(before, after, None), atol=1e-4, rtol=0)
    torch.testing.assert_close(term(7 * before, 7 * after, 7 * 1.5), term(before, after, 1.5))
    for same in (before, torch.full((3,), 2.0)):
        slope = term(same, torch.full((4,), 3.0), 1e-8)  # a query without spread
        assert 0 < float(slope.abs().max()) <= 3**0.5
    assert float(term(torch.ones(3), torch.ones(4), 1e-8).abs().max()) == 0


def test_it_is_refused_where_it_has_no_meaning() -> None:
    messages = {
        "sampling_term=0.5: is of trajectories, and regression has none": small.regression(sampling_term=0.5),
        "sampling_term=0.5: outer_optimizer='trpo' knows no such term; take adam or sgd": small.acting(
            sampling_term=0.5, outer_optimizer="trpo"
        ),
    }
    for message, config in messages.items():
        splits = data.load(config.task)
        with pytest.raises(MetabenchError, match=f"^{re.escape(message)}"):
            loop.build(config, splits)
