"""Surrogate losses against derivatives of the return itself, every trajectory enumerated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from metabench.core import seeds
from metabench.core.control import SURROGATES, Moves, act, entropy, log_prob, mean_return


def hessian(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the second derivative, in reverse twice: torch's own warns of what it imports."""
    return jacrev(grad(function))


LOSSES = pytest.mark.parametrize("name", SURROGATES)
MEANS = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
LOGITS = torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64)


def weighted(moves: Moves, chance: Tensor) -> Moves:
    """Let a mean over steps be the expected sum over them: losses are linear in advantages."""
    return moves._replace(advantage=moves.advantage * chance[:, None] * moves.is_on.sum())


def bandit(advantage: Callable[[Tensor], Tensor]) -> Moves:
    """Pull each arm once, as often as it is pulled."""
    p = LOGITS.softmax(-1)
    ones = torch.ones(3, 1, dtype=torch.float64)
    moves = Moves(torch.arange(3)[:, None], advantage(p)[:, None], p.log()[:, None], MEANS[:, None], ones)
    return weighted(moves, p)


def outputs(logits: Tensor) -> Tensor:
    return logits.expand(3, 3)


@LOSSES
def test_in_a_bandit_every_surrogate_has_the_gradient_of_the_return(name: str) -> None:
    p = LOGITS.softmax(-1)
    for advantage in (lambda p: MEANS, lambda p: MEANS - p @ MEANS, lambda p: MEANS - 7):
        slope = grad(lambda logits: SURROGATES[name](outputs(logits), bandit(advantage)))(LOGITS)  # noqa: B023
        torch.testing.assert_close(-slope, p * (MEANS - p @ MEANS), atol=1e-14, rtol=0)


def test_in_a_bandit_only_the_likelihood_lacks_a_part_of_the_second_derivative() -> None:
    def curvature(name: str) -> Tensor:
        return -hessian(lambda logits: SURROGATES[name](outputs(logits), bandit(lambda p: MEANS)))(LOGITS)

    exact = hessian(lambda logits: logits.softmax(-1) @ MEANS)(LOGITS)
    torch.testing.assert_close(curvature("likelihood_ratio"), exact, atol=1e-14, rtol=0)
    torch.testing.assert_close(curvature("dice"), exact, atol=1e-14, rtol=0)
    p = LOGITS.softmax(-1)
    scores = torch.eye(3, dtype=torch.float64) - p  # rows: the gradient of log pi of an arm
    lacking = torch.einsum("a,a,ai,aj->ij", p, MEANS, scores, scores)
    torch.testing.assert_close(curvature("log_likelihood"), exact - lacking, atol=1e-14, rtol=0)
    assert float(lacking.abs().max()) > 0.01


class Chain:
    """Two states, two actions, three steps: all 64 trajectories."""

    def __init__(self) -> None:
        generator = seeds.generator("chain")
        self.moves_to = torch.rand(2, 2, generator=generator, dtype=torch.float64)  # chance of state 1
        self.rewards = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        self.logits = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        paths = [[*path] for path in itertools.product(range(2), repeat=5)]  # a0 s1 a1 s2 a2; s0 is 0
        all_paths = torch.tensor(paths)
        self.action = all_paths[:, [0, 2, 4]]
        self.state = torch.cat([torch.zeros(len(paths), 1, dtype=torch.int64), all_paths[:, [1, 3]]], 1)
        to = self.moves_to[self.state[:, :2], self.action[:, :2]]
        self.world = torch.where(self.state[:, 1:] == 1, to, 1 - to).prod(1)
        self.reward = self.rewards[self.state, self.action]

    def outputs(self, logits: Tensor) -> Tensor:
        return logits[self.state].flatten(0, 1)

    def log_prob(self, logits: Tensor) -> Tensor:
        return log_prob(self.outputs(logits).view(*self.state.shape, 2), self.action)

    def value(self, logits: Tensor) -> Tensor:
        return (self.world * self.log_prob(logits).sum(1).exp() * self.reward.sum(1)).sum()

    def moves(self, baseline: bool) -> Moves:
        """Return every trajectory, as often as it comes about; less the exact value of its states."""
        old = self.log_prob(self.logits)
        chance = self.world * old.sum(1).exp()
        to_go = self.reward.flip(1).cumsum(1).flip(1)
        if baseline:
            for t in range(3):
                for state in range(2):
                    at = self.state[:, t] == state
                    to_go[at, t] -= (chance[at] * to_go[at, t]).sum() / chance[at].sum() if at.any() else 0
        return weighted(Moves(self.action, to_go, old, self.reward, torch.ones_like(old)), chance)


@pytest.mark.parametrize("baseline", [False, True])
@LOSSES
def test_over_three_steps_every_surrogate_has_the_gradient_of_the_return(name: str, baseline: bool) -> None:
    chain = Chain()
    slope = grad(lambda logits: SURROGATES[name](chain.outputs(logits), chain.moves(baseline)))(chain.logits)
    torch.testing.assert_close(-slope, grad(chain.value)(chain.logits), atol=1e-14, rtol=0)


@pytest.mark.parametrize("baseline", [False, True])
def test_over_three_steps_dice_alone_has_the_second_derivative_of_the_return(baseline: bool) -> None:
    chain = Chain()
    exact = hessian(chain.value)(chain.logits)

    def error(name: str) -> float:
        loss = SURROGATES[name]
        curvature = hessian(lambda logits: loss(chain.outputs(logits), chain.moves(baseline)))(chain.logits)
        return float((curvature + exact).abs().max())

    assert error("dice") < 1e-14
    assert 1e-3 < error("likelihood_ratio") < error("log_likelihood")
    if baseline:
        moves = chain.moves(baseline)
        of_log = hessian(lambda logits: SURROGATES["log_likelihood"](chain.outputs(logits), moves))
        # An advantage is 0 on average over actions, and a softmax's second derivative depends on none.
        assert float(of_log(chain.logits).abs().max()) < 1e-14


def test_the_expected_gradient_of_a_gaussian_policy_is_that_of_its_return() -> None:
    # J = E[-(a - g)^2] = -(mu - g)^2 - sigma^2: its slopes are -2 (mu - g), and by log sigma -2 sigma^2
    n, goal, at = 200_000, 0.7, torch.tensor([0.2, -0.5], dtype=torch.float64)
    noise = torch.randn(n, 1, 1, generator=seeds.generator("gaussian"), dtype=torch.float64)
    action = act(at.expand(n, 1, 2), noise)
    reward = -(action[..., 0] - goal).square()
    ones = torch.ones(n, 1, dtype=torch.float64)
    moves = Moves(action, reward - reward.mean(), log_prob(at.expand(n, 1, 2), action), reward, ones)
    exact = torch.tensor([-2 * (0.2 - goal), -2 * math.exp(-1)], dtype=torch.float64)
    for loss in SURROGATES.values():
        slope = -grad(lambda at: loss(at.expand(n, 2), moves))(at)  # noqa: B023
        # Advantages of up to 10 times scores of up to 5 vary by less than 5: four standard errors.
        torch.testing.assert_close(slope, exact, atol=4 * 5 / math.sqrt(n), rtol=0)


def test_probabilities_are_those_of_torchs_own_distributions() -> None:
    generator = seeds.generator("probabilities")
    out, action = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (6, 3))
    normal = torch.distributions.Normal(out[:, :3], out[:, 3:].exp())
    torch.testing.assert_close(log_prob(out, action), normal.log_prob(action).sum(-1))
    chosen = torch.tensor([0, 5, 2, 2, 1])
    categorical = torch.distributions.Categorical(logits=out)
    torch.testing.assert_close(log_prob(out, chosen), categorical.log_prob(chosen))


def test_entropy_is_that_of_torchs_own_distributions_over_the_steps_that_were_taken() -> None:
    generator = seeds.generator("entropy")
    out, action = (torch.randn(2, 3, n, generator=generator, dtype=torch.float64) for n in (6, 3))
    is_on = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    normal = torch.distributions.Normal(out[..., :3], out[..., 3:].exp()).entropy().sum(-1)
    categorical = torch.distributions.Categorical(logits=out).entropy()
    for moved, expected in ((action, normal), (action[..., 0].long(), categorical)):
        moves = Moves(moved, is_on, is_on, is_on, is_on)
        torch.testing.assert_close(entropy(out.flatten(0, 1), moves), expected[is_on > 0].mean())


def test_discrete_actions_come_about_as_often_as_they_are_likely() -> None:
    n, logits = 40_000, torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64)
    u = torch.rand(n, 3, generator=seeds.generator("gumbel"), dtype=torch.float64)
    counts = act(logits.expand(n, 3), -(-u.log()).log()).bincount(minlength=3) / n
    torch.testing.assert_close(counts.double(), logits.softmax(-1), atol=4 * 0.5 / n**0.5, rtol=0)


def test_a_return_is_the_sum_of_rewards_up_to_the_end() -> None:
    reward = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0]])
    is_on = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    moves: Any = Moves(reward, reward, reward, reward, is_on)
    assert float(mean_return(None, moves)) == 3.0
