"""Limits in which one algorithm must become another, and the schedules' closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from metabench import algorithms, optim, trees, vectorise
from metabench.algorithms import alpha_maml, maml_pp
from metabench.core import Tree
from tests.algorithms import problems

NAMES = ["maml", "fomaml", "alpha_maml", "maml_pp"]
OFF = {
    "multi_step_loss": False,
    "learned_rates": False,
    "derivative_annealing": False,
    "per_step_weights": False,
    "per_step_statistics": False,
    "cosine": False,
}


def theta_gradient(name: str, progress: float = 0.5, **values: Any) -> Tree:
    net = problems.network()
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    theta = problems.start("maml", net)[2]["theta"]
    gradient, *_ = vectorise.meta_gradient(
        algorithm, net, {**meta, "theta": theta}, buffers, problems.tasks(), h, progress, chunk=4
    )
    return gradient["theta"]


def test_maml_pp_with_every_switch_off_is_maml() -> None:
    off = theta_gradient("maml_pp", inner_lr=0.3, inner_steps=3, **OFF)
    assert problems.largest_difference(off, theta_gradient("maml", inner_lr=0.3, inner_steps=3)) < 1e-12


def test_derivative_annealing_starts_as_fomaml_and_ends_as_maml() -> None:
    settings = {
        **OFF,
        "derivative_annealing": True,
        "first_order_fraction": 0.4,
        "inner_lr": 0.3,
        "inner_steps": 3,
    }
    plain = {"inner_lr": 0.3, "inner_steps": 3}
    early, late = theta_gradient("maml_pp", 0.39, **settings), theta_gradient("maml_pp", 0.4, **settings)
    assert problems.largest_difference(early, theta_gradient("fomaml", **plain)) < 1e-12
    assert problems.largest_difference(late, theta_gradient("maml", **plain)) < 1e-12


def test_alpha_maml_has_the_meta_gradient_of_maml_at_its_inner_rate() -> None:
    net = problems.network()
    algorithm, h, meta, buffers = problems.start("alpha_maml", net, inner_steps=3)
    meta = {"theta": problems.start("maml", net)[2]["theta"], "alpha": torch.tensor(0.3, dtype=torch.float64)}
    gradient, *_ = vectorise.meta_gradient(algorithm, net, meta, buffers, problems.tasks(), h, 0.5, 4)
    expected = theta_gradient("maml", inner_lr=0.3, inner_steps=3)
    assert problems.largest_difference(gradient["theta"], expected) < 1e-12


@pytest.mark.parametrize("name", ["fomaml", "alpha_maml"])
def test_no_inner_step_is_plain_joint_training(name: str) -> None:
    joint = theta_gradient("maml", inner_lr=0.0, inner_steps=1)
    assert problems.largest_difference(theta_gradient(name, inner_steps=0), joint) < 1e-12


@pytest.mark.parametrize("name", ["maml", "fomaml"])
def test_an_inner_rate_of_zero_is_plain_joint_training(name: str) -> None:
    still = theta_gradient(name, inner_lr=0.0, inner_steps=3)
    assert problems.largest_difference(still, theta_gradient("maml", inner_steps=0)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_order_of_tasks_and_chunk_size_do_not_matter(name: str) -> None:
    net, tasks = problems.network(), problems.tasks(5)
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.2, inner_steps=2)
    turned = type(tasks)(
        *(type(part)(*(leaf.flip(0) for leaf in part)) for part in tasks[:2]), tasks.classes.flip(0)
    )
    whole = vectorise.meta_gradient(algorithm, net, meta, buffers, tasks, h, 0.5, chunk=5)[0]
    cut = vectorise.meta_gradient(algorithm, net, meta, buffers, turned, h, 0.5, chunk=2)[0]
    assert problems.largest_difference(whole, cut) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_norm", ["transductive", "support_stats"])
def test_a_query_sees_other_queries_only_where_batch_norm_is_transductive(name: str, batch_norm: str) -> None:
    net, task = problems.network(batch_norm), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.2, inner_steps=2)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    together = algorithm.predict(net, learner, task.query.x)[:1]
    alone = algorithm.predict(net, learner, task.query.x[:1])
    is_same = bool((together - alone).abs().max() < 1e-10)
    assert is_same == (batch_norm == "support_stats")


def test_running_statistics_are_recorded_in_training_and_used_at_evaluation() -> None:
    net, tasks = problems.network(), problems.tasks()
    algorithm, h, meta, buffers = problems.start("maml_pp", net, inner_steps=2, per_step_statistics=True)
    for _ in range(3):
        buffers = vectorise.meta_gradient(algorithm, net, meta, buffers, tasks, h, 0.9, chunk=4)[3]
    mean = buffers["norm1"]["mean"]
    assert mean.shape == (2, 4)
    assert not torch.equal(mean[0], mean[1])
    task = problems.one(tasks, 0)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    shifted = trees.map(lambda rows: rows + 0.5, buffers)
    other = algorithm.adapt(net, meta, shifted, task.support, h)
    queries = task.query.x
    assert not torch.allclose(
        algorithm.predict(net, learner, queries), algorithm.predict(net, other, queries)
    )
    alone = algorithm.predict(net, learner, queries[:1])
    assert torch.allclose(algorithm.predict(net, learner, queries)[:1], alone)


@pytest.mark.parametrize("n_steps", [2, 3, 5])
def test_multi_step_weights_follow_the_published_formula(n_steps: int) -> None:
    h = algorithms.hparams("maml_pp", {"multi_step_fraction": 0.1})
    n_epochs = 10
    for epoch in range(n_epochs):
        weights = maml_pp.multi_step_weights(n_steps, h, 0.1 * epoch / n_epochs)
        early = max(1 / n_steps - epoch / (n_steps * n_epochs), 0.03 / n_steps)
        last = min(
            1 / n_steps + epoch * (n_steps - 1) / (n_steps * n_epochs), 1 - (n_steps - 1) * 0.03 / n_steps
        )
        assert weights == pytest.approx([early] * (n_steps - 1) + [last])
        assert sum(weights) == pytest.approx(1)
    assert maml_pp.multi_step_weights(n_steps, h, 0.1) == [0.0] * (n_steps - 1) + [1.0]


def test_adam_equals_torch_adam() -> None:
    start = {"w": torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)}
    h = algorithms.hparams("maml", {"outer_lr": 0.05})
    optimizer = optim.descend(h)
    ours, state = start, optimizer.init(start)
    theirs = start["w"].clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.05)
    for step in range(20):
        gradient = torch.sin(ours["w"] * (step + 1))
        theirs.grad = gradient.clone()
        reference.step()
        ours, state, _ = optimizer.update({"w": gradient}, state, ours, 0.0)
    assert torch.allclose(ours["w"], theirs.detach(), rtol=1e-12, atol=1e-14)


def test_cosine_falls_from_one_to_its_final_share() -> None:
    schedule = optim.cosine(0.1)
    assert [schedule(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.55, 0.1])


def meta_of(theta: float, alpha: float) -> Tree:
    return {
        "theta": {"w": torch.tensor([theta], dtype=torch.float64)},
        "alpha": torch.tensor(alpha, dtype=torch.float64),
    }


def test_alpha_maml_outer_rate_moves_by_the_dot_of_successive_gradients() -> None:
    settings = {"outer_optimizer": "sgd", "outer_lr": 0.05, "beta_lr": 1e-4, "alpha_lr": 0.0, "inner_lr": 0.1}
    optimizer = alpha_maml.optimizer(algorithms.hparams("alpha_maml", settings))
    meta = meta_of(2.0, 0.1)
    state = optimizer.init(meta)
    beta, theta, previous = 0.05, 2.0, 0.0
    for _ in range(5):
        gradient = 2 * theta  # of w^2
        beta += 1e-4 * gradient * previous
        theta -= beta * gradient
        previous = gradient
        slope = {"theta": {"w": 2 * meta["theta"]["w"]}, "alpha": torch.zeros((), dtype=torch.float64)}
        meta, state, logs = optimizer.update(slope, state, meta, 0.0)
        assert float(meta["theta"]["w"]) == pytest.approx(theta)
        assert float(logs["lr/outer"]) == pytest.approx(beta)


def test_alpha_maml_with_both_rates_still_is_maml() -> None:
    net, tasks = problems.network(), problems.tasks()
    ends = []
    for name, extra in (("maml", {}), ("alpha_maml", {"alpha_lr": 0.0, "beta_lr": 0.0})):
        algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.2, inner_steps=2, **extra)
        meta["theta"] = problems.start("maml", net)[2]["theta"]
        if name == "alpha_maml":
            meta["alpha"] = torch.tensor(0.2, dtype=torch.float64)
        optimizer = algorithm.optimizer(h)
        state = optimizer.init(meta)
        for _ in range(3):
            gradient = vectorise.meta_gradient(algorithm, net, meta, buffers, tasks, h, 0.5, 4)[0]
            meta, state, _ = optimizer.update(gradient, state, meta, 0.5)
        ends.append(meta["theta"])
    assert problems.largest_difference(*ends) < 1e-12


@pytest.mark.parametrize(
    ("slope", "expected", "limited", "skipped"),
    [
        (0.1, 0.1 - 0.001, 0, 0),
        (100.0, 0.09, 1, 0),
        (-100.0, 0.11, 1, 0),
        (math.nan, 0.1, 0, 1),
        (math.inf, 0.1, 0, 1),
    ],
)
def test_alpha_maml_safeguards_limit_and_are_logged(
    slope: float, expected: float, limited: int, skipped: int
) -> None:
    h = algorithms.hparams("alpha_maml", {"alpha_lr": 0.01, "inner_lr": 0.1, "max_change": 0.1})
    optimizer = alpha_maml.optimizer(h)
    meta = meta_of(1.0, 0.1)
    gradient = meta_of(0.0, slope)
    meta, _, logs = optimizer.update(gradient, optimizer.init(meta), meta, 0.0)
    assert float(meta["alpha"]) == pytest.approx(expected)
    assert (float(logs["lr/inner_limited"]), float(logs["lr/inner_skipped"])) == (limited, skipped)
