"""Limits in which one algorithm must become another, or stand still."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metabench import algorithms
from metabench.algorithms import maml_pp
from metabench.core import Net, Objective, Query, Support, Task, Tree, trees
from metabench.core.metrics import ERROR
from metabench.training import vectorise
from tests.algorithms import problems

OFF = {
    "multi_step_loss": False,
    "learned_rates": False,
    "derivative_annealing": False,
    "per_step_weights": False,
    "per_step_statistics": False,
    "cosine": False,
}
SAME = 1e-12  # float64: the same sums in another order
STEPPING = [
    name
    for name in algorithms.names("classification")
    if any(field.name == "eval_steps" for field in dataclasses.fields(algorithms.get(name).hparams))
]


def meta_gradient(name: str, progress: float = 0.5, net: Net | None = None, **values: Any) -> Tree:
    """Differentiate from the same theta for every algorithm, and from one rate where rates are learnt."""
    net = net or problems.network()
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    meta["theta"] = problems.start("maml", net)[2]["theta"]
    if "alpha" in meta:
        meta["alpha"] = trees.map(lambda rate: torch.full_like(rate, h.inner_lr), meta["alpha"])
    return vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), problems.tasks(), progress, chunk=4
    )[0]


def difference(left: Tree, right: Tree) -> float:
    return problems.largest_difference(left["theta"], right["theta"])


def test_maml_pp_with_every_switch_off_is_maml() -> None:
    settings = {"inner_lr": 0.3, "inner_steps": 3}
    assert difference(meta_gradient("maml_pp", **settings, **OFF), meta_gradient("maml", **settings)) < SAME


def test_derivative_annealing_starts_as_fomaml_and_ends_as_maml() -> None:
    plain = {"inner_lr": 0.3, "inner_steps": 3}
    settings = {**plain, **OFF, "derivative_annealing": True, "first_order_fraction": 0.4}
    assert difference(meta_gradient("maml_pp", 0.39, **settings), meta_gradient("fomaml", **plain)) < SAME
    assert difference(meta_gradient("maml_pp", 0.4, **settings), meta_gradient("maml", **plain)) < SAME


@pytest.mark.parametrize("rates", ["element", "tensor"])
def test_meta_sgd_with_constant_rates_is_maml(rates: str) -> None:
    settings = {"inner_lr": 0.3, "inner_steps": 3}
    learned = meta_gradient("meta_sgd", rates=rates, **settings)
    assert difference(learned, meta_gradient("maml", **settings)) < SAME


@pytest.mark.parametrize(
    ("name", "values"), [("meta_sgd", {}), ("meta_sgd", {"rates": "tensor"}), ("maml_pp", {})]
)
def test_slopes_of_all_learned_rates_add_up_to_that_of_one_rate_for_all(name: str, values: dict) -> None:
    settings = {"inner_lr": 0.3, "inner_steps": 3}
    if name == "maml_pp":
        values = {**OFF, "learned_rates": True}
    many = meta_gradient(name, **settings, **values)["alpha"]
    one = meta_gradient("alpha_maml", **settings)["alpha"]
    assert float(sum(leaf.sum() for leaf in trees.leaves(many))) == pytest.approx(float(one), abs=1e-10)


def test_slopes_of_all_steps_norm_weights_add_up_to_those_of_one_for_all() -> None:
    net, settings = problems.network(), {"inner_lr": 0.3, "inner_steps": 3}
    algorithm, h, meta, buffers = problems.start(
        "maml_pp", net, **{**settings, **OFF, "per_step_weights": True}
    )
    theta = problems.start("maml", net)[2]["theta"]
    per_step = {name: trees.map(lambda w: w.expand(3, -1), theta[name]) for name in net.norms}
    start = {**meta, "theta": {**theta, **per_step}}
    many = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, start, buffers, h), problems.tasks(), 0.5, 4
    )[0]["theta"]
    one = meta_gradient("maml", **settings)["theta"]
    for name in net.norms:
        assert all(bool((row.abs() > 1e-6).any()) for leaf in trees.leaves(many[name]) for row in leaf)
    total = {**many, **{name: trees.map(lambda rows: rows.sum(0), many[name]) for name in net.norms}}
    assert problems.largest_difference(total, one) < SAME


def test_alpha_maml_has_the_meta_gradient_of_maml_at_its_inner_rate() -> None:
    settings = {"inner_lr": 0.3, "inner_steps": 3}
    assert difference(meta_gradient("alpha_maml", **settings), meta_gradient("maml", **settings)) < SAME


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
            gradient = vectorise.meta_gradient(
                vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, 4
            )[0]
            meta, state, _ = optimizer.update(gradient, state, meta, 0.5)
        ends.append(meta["theta"])
    assert problems.largest_difference(*ends) < SAME


def alpha_slope(**values: Any) -> float:
    return float(meta_gradient("alpha_maml", inner_lr=0.3, **values)["alpha"])


def test_the_sum_of_dots_is_exact_where_inner_gradients_are_constants() -> None:
    settings = {"inner_steps": 3, "derivative": "first"}
    assert alpha_slope(alpha_gradient="dot_sum", **settings) == pytest.approx(
        alpha_slope(**settings), abs=SAME
    )


@pytest.mark.parametrize("rule", ["dot_sum", "dot_last"])
def test_dots_are_exact_for_one_inner_step(rule: str) -> None:
    assert alpha_slope(alpha_gradient=rule, inner_steps=1) == pytest.approx(
        alpha_slope(inner_steps=1), abs=SAME
    )


def test_dots_are_surrogates_for_more_steps() -> None:
    slopes = [alpha_slope(alpha_gradient=rule, inner_steps=3) for rule in ("exact", "dot_sum", "dot_last")]
    assert min(abs(a - b) for a, b in zip(slopes, [*slopes[1:], slopes[0]], strict=True)) > 1e-4


@pytest.mark.parametrize("name", ["fomaml", "anil", "boil", "meta_sgd", "alpha_maml"])
def test_no_inner_step_is_plain_joint_training(name: str) -> None:
    joint = meta_gradient("maml", inner_lr=0.0, inner_steps=1)
    assert difference(meta_gradient(name, inner_steps=0), joint) < SAME


def test_no_inner_step_of_maml_pp_is_plain_joint_training() -> None:
    assert (
        difference(meta_gradient("maml_pp", inner_steps=0, **OFF), meta_gradient("maml", inner_steps=0))
        < SAME
    )


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "boil", "meta_sgd"])
def test_an_inner_rate_of_zero_is_plain_joint_training(name: str) -> None:
    still = meta_gradient(name, inner_lr=0.0, inner_steps=3)
    assert difference(still, meta_gradient("maml", inner_steps=0)) < SAME


@pytest.mark.parametrize(
    ("name", "moves"), [("anil", {"head"}), ("boil", {"conv1", "conv2", "conv3", "conv4"})]
)
def test_anil_moves_the_head_alone_and_boil_the_body_alone(name: str, moves: set[str]) -> None:
    net, task = problems.network(), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.3, inner_steps=3)
    theta = algorithm.adapt(net, meta, buffers, task.support, h)["params"]
    for layer, before in meta["theta"].items():
        still = [torch.equal(before[key], theta[layer][key]) for key in before]
        assert all(still) if layer not in moves else not any(still)


def linear_then_squared(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Judge rows with y = [slope, 0] by a linear loss and rows with y = [target, 1] by a squared one."""
    aim, is_query = y[:, :1], y[:, 1:]
    return (is_query * (outputs - aim) ** 2 + (1 - is_query) * aim * outputs).mean()


def test_fomaml_is_maml_where_the_support_loss_is_linear() -> None:
    net = problems.linear_network(3, Objective(ERROR, linear_then_squared, linear_then_squared))
    support, query, classes = problems.points(3, 3)
    marked = [
        torch.cat([half.y, torch.full_like(half.y, mark)], -1) for half, mark in ((support, 0), (query, 1))
    ]
    tasks = Task(Support(support.x, marked[0]), Query(query.x, marked[1]), classes)
    gradients = []
    for name, steps in (("maml", 4), ("fomaml", 4), ("maml", 0)):
        algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.3, inner_steps=steps)
        gradients.append(
            vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=3)[0]
        )
    assert difference(gradients[0], gradients[1]) < SAME
    assert difference(gradients[0], gradients[2]) > 0.1


@pytest.mark.parametrize("n_steps", [2, 3, 4, 5])
@pytest.mark.parametrize("n_epochs", [5, 10, 15])
def test_multi_step_weights_follow_the_published_table(n_steps: int, n_epochs: int) -> None:
    share = 0.1
    h = algorithms.hparams("maml_pp", {"multi_step_fraction": share})
    for epoch in range(n_epochs):
        weights = maml_pp.multi_step_weights(n_steps, h, share * epoch / n_epochs)
        early = max(1 / n_steps - epoch / (n_steps * n_epochs), 0.03 / n_steps)
        last = min(
            1 / n_steps + epoch * (n_steps - 1) / (n_steps * n_epochs), 1 - (n_steps - 1) * 0.03 / n_steps
        )
        assert weights == pytest.approx([early] * (n_steps - 1) + [last], abs=1e-14)
        assert sum(weights) == pytest.approx(1, abs=1e-14)
    for later in (share, 0.5, 1.0):
        assert maml_pp.multi_step_weights(n_steps, h, later) == [0.0] * (n_steps - 1) + [1.0]


def test_multi_step_weights_stop_at_their_floor() -> None:
    h = algorithms.hparams("maml_pp", {"multi_step_fraction": 0.5})
    assert maml_pp.multi_step_weights(4, h, 0.4999) == pytest.approx([0.0075] * 3 + [0.9775])


def predictions(name: str, eval_steps: int, rate: float) -> torch.Tensor:
    net, task = problems.network(), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start(name, net, inner_steps=2, eval_steps=eval_steps)
    if "alpha" in meta:
        meta["alpha"] = trees.map(lambda leaf: torch.full_like(leaf, rate), meta["alpha"])
    else:
        h = dataclasses.replace(h, inner_lr=rate)
    return algorithm.predict(net, algorithm.adapt(net, meta, buffers, task.support, h), task.query.x)


@pytest.mark.parametrize("name", STEPPING)
def test_evaluation_without_inner_steps_is_evaluation_at_a_rate_of_zero(name: str) -> None:
    none = predictions(name, 0, 0.3)
    assert torch.allclose(none, predictions(name, 1, 0.0), rtol=0, atol=SAME)
    assert not torch.allclose(none, predictions(name, 1, 0.3))


@pytest.mark.parametrize("name", STEPPING)
def test_evaluation_may_take_more_steps_than_training(name: str) -> None:
    many = predictions(name, 6, 0.1)
    assert bool(many.isfinite().all())
    assert not torch.allclose(many, predictions(name, 2, 0.1))
    assert torch.equal(predictions(name, -1, 0.1), predictions(name, 2, 0.1))


@pytest.mark.parametrize("is_running", [False, True])
def test_maml_pp_says_whose_moments_normalise_its_queries(is_running: bool) -> None:
    algorithm, h, _, _ = problems.start("maml_pp", problems.network(), per_step_statistics=is_running)
    expected = "per_step_running" if is_running else "transductive"
    assert algorithm.batch_norm(problems.network(), h) == expected
    assert algorithm.batch_norm(problems.network(norm="none"), h) is None
