"""On quadratic losses every meta-gradient has a closed form, written here with matrices and no autograd.

The network is a line with an intercept, theta its weights and then its bias, and the loss the mean squared
error: L_S = 1/2 (theta - a)^T A (theta - a) + constant with A = 2 X^T X / n, and so L_Q with b and C.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from metabench.core import Tree, trees
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from tests.algorithms import problems

ALPHA = 0.1
N_INPUTS = 3
NET = problems.linear_network(N_INPUTS, OBJECTIVES["regression"])
TASKS = problems.points(3, N_INPUTS)
TOLERANCE = 1e-10  # float64, numbers of order one, a dozen operations deep
EYE = torch.eye(N_INPUTS + 1, dtype=torch.float64)


class Quadratic(NamedTuple):
    """One task: the curvature and the lowest point of its support's and its query's loss."""

    A: Tensor
    a: Tensor
    C: Tensor
    b: Tensor


def quadratics() -> list[Quadratic]:
    drawn = []
    for index in range(len(TASKS.classes)):
        task, parts = problems.one(TASKS, index), []
        for half in (task.support, task.query):
            X = torch.cat([half.x, torch.ones(len(half.x), 1, dtype=torch.float64)], 1)
            curvature = 2 * X.T @ X / len(X)
            parts += [curvature, torch.linalg.solve(curvature, 2 * X.T @ half.y[:, 0] / len(X))]
        drawn.append(Quadratic(*parts))
    return drawn


def flat(theta: Tree) -> Tensor:
    """Put the weights and then the bias into one vector."""
    return torch.cat([theta["head"]["weight"].flatten(), theta["head"]["bias"].flatten()])


def spread(weight: Tensor, bias: Tensor) -> Tensor:
    """Give each element of theta its own rate, or that of its tensor."""
    return torch.cat([weight.flatten().expand(N_INPUTS), bias.flatten()])


def jacobian(A: Tensor, rates: Tensor, start: int, end: int) -> Tensor:
    """Multiply out d theta^end / d theta^start = (I - R_(end-1) A) ... (I - R_start A), R_k diagonal."""
    product = EYE
    for step in range(start, end):
        product = (EYE - rates[step].diag() @ A) @ product
    return product


def point(q: Quadratic, theta: Tensor, rates: Tensor, step: int) -> Tensor:
    """Return theta^k = a + J (theta - a)."""
    return q.a + jacobian(q.A, rates, 0, step) @ (theta - q.a)


def slope_of_rates(q: Quadratic, theta: Tensor, rates: Tensor, step: int, end: int) -> Tensor:
    """Return d L_Q(theta^end) / d rates[step], one for each element of theta."""
    move = q.A @ (point(q, theta, rates, step) - q.a)
    back = jacobian(q.A, rates, step + 1, end).T @ q.C @ (point(q, theta, rates, end) - q.b)
    return -move * back


def slope_of_theta(q: Quadratic, theta: Tensor, rates: Tensor, end: int) -> Tensor:
    """Return d L_Q(theta^end) / d theta = J^T C (theta^end - b)."""
    return jacobian(q.A, rates, 0, end).T @ q.C @ (point(q, theta, rates, end) - q.b)


def mean(slopes: list[Tensor]) -> Tensor:
    return torch.stack(slopes).mean(0)


def learnt(name: str, progress: float = 0.9, **values: Any) -> tuple[Tree, Tree]:
    """Return meta-parameters and the algorithm's meta-gradient, averaged over tasks."""
    algorithm, h, meta, buffers = problems.start(name, NET, **{"inner_lr": ALPHA, **values})
    gradient, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, NET, meta, buffers, h), TASKS, progress, chunk=2
    )
    return meta, gradient


def is_close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and float((left - right).abs().max()) < TOLERANCE


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_maml_is_the_power_of_i_minus_alpha_a_times_the_query_slope(steps: int) -> None:
    meta, gradient = learnt("maml", inner_steps=steps)
    theta, slopes = flat(meta["theta"]), []
    for A, a, C, b in quadratics():
        power = torch.linalg.matrix_power(EYE - ALPHA * A, steps)
        slopes.append(power @ C @ (a + power @ (theta - a) - b))
    assert is_close(flat(gradient["theta"]), mean(slopes))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_fomaml_is_the_query_slope_at_the_adapted_point(steps: int) -> None:
    meta, gradient = learnt("fomaml", inner_steps=steps)
    theta, slopes = flat(meta["theta"]), []
    for A, a, C, b in quadratics():
        slopes.append(C @ (a + torch.linalg.matrix_power(EYE - ALPHA * A, steps) @ (theta - a) - b))
    assert is_close(flat(gradient["theta"]), mean(slopes))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_alpha_maml_exact_hypergradient(steps: int) -> None:
    meta, gradient = learnt("alpha_maml", inner_steps=steps)
    theta, alpha, slopes = flat(meta["theta"]), meta["alpha"], []
    for A, a, C, b in quadratics():
        one_less = torch.linalg.matrix_power(EYE - alpha * A, steps - 1)
        end = a + (EYE - alpha * A) @ one_less @ (theta - a)
        slopes.append(-steps * (one_less @ A @ (theta - a)) @ C @ (end - b))
    assert is_close(gradient["alpha"], mean(slopes))


@pytest.mark.parametrize("rule", ["dot_sum", "dot_last"])
@pytest.mark.parametrize("derivative", ["first", "second"])
def test_alpha_maml_surrogate_hypergradients_are_minus_the_dots(rule: str, derivative: str) -> None:
    steps = 4
    meta, gradient = learnt("alpha_maml", inner_steps=steps, alpha_gradient=rule, derivative=derivative)
    theta, alpha, dots, slopes = flat(meta["theta"]), meta["alpha"], [], []
    for q in quadratics():
        rates = alpha.expand(steps, N_INPUTS + 1)
        at_query = q.C @ (point(q, theta, rates, steps) - q.b)
        first = 0 if rule == "dot_sum" else steps - 1
        moves = [q.A @ (point(q, theta, rates, step) - q.a) for step in range(first, steps)]
        dots.append(-sum(at_query @ move for move in moves))
        slopes.append(slope_of_theta(q, theta, rates, steps) if derivative == "second" else at_query)
    assert is_close(gradient["alpha"], mean(dots))
    assert is_close(flat(gradient["theta"]), mean(slopes))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["element", "tensor"])
def test_meta_sgd_rates_of_elements_and_of_tensors(kind: str, steps: int) -> None:
    settings = {"rates": kind, "inner_lr_spread": 0.9, "inner_steps": steps}
    meta, gradient = learnt("meta_sgd", **settings)
    theta, alpha = flat(meta["theta"]), meta["alpha"]["head"]
    rates = spread(alpha["weight"], alpha["bias"]).expand(steps, -1)
    of_rates, of_theta = [], []
    for q in quadratics():
        of_rates.append(sum(slope_of_rates(q, theta, rates, step, steps) for step in range(steps)))
        of_theta.append(slope_of_theta(q, theta, rates, steps))
    expected, measured = mean(of_rates), gradient["alpha"]["head"]
    of_weight = expected[:-1].reshape(1, -1) if kind == "element" else expected[:-1].sum()
    assert is_close(measured["weight"], of_weight)
    assert is_close(measured["bias"].reshape(1), expected[-1:])
    assert is_close(flat(gradient["theta"]), mean(of_theta))


def test_maml_pp_learns_one_rate_a_tensor_and_step() -> None:
    steps = 4
    meta, gradient = learnt("maml_pp", inner_steps=steps)
    theta, alpha = flat(meta["theta"]), meta["alpha"]["head"]
    assert len({*alpha["weight"].tolist(), *alpha["bias"].tolist()}) == 2 * steps
    rates = torch.stack([spread(alpha["weight"][k], alpha["bias"][k]) for k in range(steps)])
    for step in range(steps):
        expected = mean([slope_of_rates(q, theta, rates, step, steps) for q in quadratics()])
        assert is_close(gradient["alpha"]["head"]["weight"][step], expected[:-1].sum())
        assert is_close(gradient["alpha"]["head"]["bias"][step], expected[-1])
    assert is_close(
        flat(gradient["theta"]), mean([slope_of_theta(q, theta, rates, steps) for q in quadratics()])
    )


def test_maml_pp_weighs_the_query_loss_after_every_step() -> None:
    steps, done = 3, 0.5
    settings = {"derivative_annealing": False, "multi_step_fraction": 0.4, "inner_steps": steps}
    meta, gradient = learnt("maml_pp", progress=done * 0.4, **settings)
    # half-way from all alike to the last alone
    weights = [(1 - done) / steps, (1 - done) / steps, (1 + done * (steps - 1)) / steps]
    theta, alpha = flat(meta["theta"]), meta["alpha"]["head"]
    rates = torch.stack([spread(alpha["weight"][k], alpha["bias"][k]) for k in range(steps)])
    ends = list(enumerate(weights, 1))
    of_theta = [sum(v * slope_of_theta(q, theta, rates, end) for end, v in ends) for q in quadratics()]
    assert is_close(flat(gradient["theta"]), mean(of_theta))
    for step in range(steps):
        later = [(end, v) for end, v in ends if end > step]
        expected = mean(
            [sum(v * slope_of_rates(q, theta, rates, step, end) for end, v in later) for q in quadratics()]
        )
        assert is_close(gradient["alpha"]["head"]["bias"][step], expected[-1])


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "alpha_maml"])
@pytest.mark.parametrize("eval_steps", [-1, 0, 1, 7])
def test_evaluation_takes_the_steps_asked_for(name: str, eval_steps: int) -> None:
    algorithm, h, meta, buffers = problems.start(
        name, NET, inner_lr=ALPHA, inner_steps=2, eval_steps=eval_steps
    )
    learner = algorithm.adapt(NET, meta, buffers, problems.one(TASKS, 0).support, h)
    n_steps = 2 if eval_steps < 0 else eval_steps
    rates = torch.as_tensor(meta.get("alpha", ALPHA), dtype=torch.float64).expand(
        max(n_steps, 1), N_INPUTS + 1
    )
    expected = point(quadratics()[0], flat(meta["theta"]), rates, n_steps)
    assert is_close(flat(learner["params"]), expected)


def test_steps_beyond_those_trained_for_take_the_last_learned_rates() -> None:
    algorithm, h, meta, buffers = problems.start("maml_pp", NET, inner_lr=ALPHA, inner_steps=2, eval_steps=5)
    learner = algorithm.adapt(NET, meta, buffers, problems.one(TASKS, 0).support, h)
    alpha = meta["alpha"]["head"]
    rates = torch.stack([spread(alpha["weight"][k], alpha["bias"][k]) for k in (0, 1, 1, 1, 1)])
    assert is_close(flat(learner["params"]), point(quadratics()[0], flat(meta["theta"]), rates, 5))


@pytest.mark.parametrize("name", ["maml", "alpha_maml", "meta_sgd", "maml_pp"])
def test_an_inner_gradient_is_limited_element_by_element(name: str) -> None:
    limit = 0.2
    algorithm, h, meta, buffers = problems.start(
        name, NET, inner_lr=ALPHA, inner_steps=1, inner_clip=limit, eval_steps=1
    )
    algorithm_meta = {**meta, "alpha": trees.map(lambda rate: rate * 0 + ALPHA, meta.get("alpha", {}))}
    learner = algorithm.adapt(NET, algorithm_meta, buffers, problems.one(TASKS, 0).support, h)
    q, theta = quadratics()[0], flat(meta["theta"])
    slope = q.A @ (theta - q.a)
    assert bool((slope.abs() > limit).any())
    assert is_close(flat(learner["params"]), theta - ALPHA * slope.clamp(-limit, limit))


def test_two_updates_of_alpha_maml_move_both_rates_down_their_hypergradients() -> None:
    alpha_lr, beta_lr, steps = 1e-3, 1e-3, 2
    algorithm, h, meta, buffers = problems.start(
        "alpha_maml", NET, inner_lr=ALPHA, inner_steps=steps, alpha_lr=alpha_lr, beta_lr=beta_lr,
        outer_lr=0.05, outer_optimizer="sgd", max_change=1e9,
    )  # fmt: skip
    optimizer = algorithm.optimizer(h)
    state = optimizer.init(meta)
    theta, alpha, beta, previous = (
        flat(meta["theta"]),
        meta["alpha"],
        0.05,
        torch.zeros(N_INPUTS + 1).double(),
    )
    for _ in range(2):
        gradient, *_ = vectorise.meta_gradient(
            vectorise.Model(algorithm, NET, meta, buffers, h), TASKS, 0.5, chunk=3
        )
        meta, state, logs = optimizer.update(gradient, state, meta, 0.5)
        rates = alpha.expand(steps, N_INPUTS + 1)
        of_theta = mean([slope_of_theta(q, theta, rates, steps) for q in quadratics()])
        of_alpha = mean(
            [
                sum(slope_of_rates(q, theta, rates, step, steps).sum() for step in range(steps))
                for q in quadratics()
            ]
        )
        beta = beta + beta_lr * float(of_theta @ previous)
        theta, alpha, previous = theta - beta * of_theta, alpha - alpha_lr * of_alpha, of_theta
        assert float(logs["lr/outer"]) == pytest.approx(beta, rel=1e-10)
        assert is_close(meta["alpha"], alpha)
        assert is_close(flat(meta["theta"]), theta)
    assert abs(beta - 0.05) > 1e-5
