"""Invariances that hold for every start, and the closed forms of optimisers and schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from metabench import algorithms
from metabench.algorithms import _outer_loop as optim
from metabench.algorithms import alpha_maml
from metabench.core import Net, Support, Task, Tree, trees
from metabench.training import vectorise
from tests.algorithms import problems

NAMES = ["maml", "fomaml", "anil", "boil", "meta_sgd", "alpha_maml", "maml_pp"]


@pytest.mark.parametrize("name", NAMES)
def test_order_of_tasks_and_chunk_size_do_not_matter(name: str) -> None:
    net, tasks = problems.network(), problems.tasks(5)
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.2, inner_steps=2)
    turned = type(tasks)(
        *(type(part)(*(leaf.flip(0) for leaf in part)) for part in tasks[:2]), tasks.classes.flip(0)
    )
    whole = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=5)[0]
    cut = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), turned, 0.5, chunk=2)[0]
    assert problems.largest_difference(whole, cut) < 1e-12


def relabelled(part: Any, order: torch.Tensor) -> Any:
    return part._replace(y=order[part.y])


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_do_not_matter_where_the_head_is_renamed_too(name: str) -> None:
    net, task, order = problems.network(), problems.one(problems.tasks(1), 0), torch.tensor([2, 0, 1])
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.2, inner_steps=2)

    def renamed(layers: Tree) -> Tree:
        # what was class c is now order[c], and so is its row of the head
        rows = order.argsort()
        return {**layers, "head": trees.map(lambda leaf: leaf[rows], layers["head"])}

    other = {**meta, "theta": renamed(meta["theta"])}
    if name == "meta_sgd":
        other["alpha"] = renamed(meta["alpha"])
    turned = Task(relabelled(task.support, order), relabelled(task.query, order), task.classes)
    scheduled = algorithm.schedule(h, 0.5)
    loss = algorithm.task_loss(net, meta, buffers, task, h, scheduled)[0]
    assert torch.allclose(
        loss, algorithm.task_loss(net, other, buffers, turned, h, scheduled)[0], rtol=0, atol=1e-12
    )
    assert not torch.allclose(loss, algorithm.task_loss(net, meta, buffers, turned, h, scheduled)[0])


@pytest.mark.parametrize("name", [*NAMES, "protonet", "proto_maml", "r2d2", "matching"])
def test_order_of_support_examples_does_not_matter(name: str) -> None:
    net, task = problems.network(), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start(name, net)
    shuffled = Support(*(leaf[torch.tensor([3, 0, 5, 1, 4, 2])] for leaf in task.support))
    outputs = [
        algorithm.predict(net, algorithm.adapt(net, meta, buffers, support, h), task.query.x)
        for support in (task.support, shuffled)
    ]
    assert torch.allclose(*outputs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_norm", ["transductive", "support_stats", "with_support"])
def test_a_query_sees_other_queries_only_where_batch_norm_is_transductive(name: str, batch_norm: str) -> None:
    net, task = problems.network(batch_norm), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=0.2, inner_steps=2)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    together = algorithm.predict(net, learner, task.query.x)[:1]
    alone = algorithm.predict(net, learner, task.query.x[:1])
    is_same = bool((together - alone).abs().max() < 1e-10)
    assert is_same == (batch_norm != "transductive")


def trained_statistics(net: Net, tasks: Task) -> tuple[Any, Any, Tree, Tree]:
    """Start MAML++ with running statistics that have seen one meta-batch."""
    algorithm, h, meta, buffers = problems.start(
        "maml_pp", net, inner_lr=0.2, inner_steps=2, per_step_statistics=True
    )
    buffers = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.9, chunk=4)[
        3
    ]
    return algorithm, h, meta, buffers


def test_running_statistics_move_a_tenth_towards_what_each_step_saw() -> None:
    net, tasks = problems.network(), problems.tasks()
    _, _, meta, buffers = trained_statistics(net, tasks)
    first = {name: trees.map(lambda rows: rows[0], meta["theta"][name]) for name in net.norms}
    theta = {**meta["theta"], **first}
    seen = [net.embed(theta, problems.one(tasks, index).support.x)[1] for index in range(len(tasks.classes))]
    for name in net.norms:
        mean, var = (torch.stack([each[name][key] for each in seen]).mean(0) for key in ("mean", "var"))
        assert torch.allclose(buffers[name]["mean"][0], 0.1 * mean, rtol=0, atol=1e-12)
        assert torch.allclose(buffers[name]["var"][0], 0.9 + 0.1 * var, rtol=0, atol=1e-12)
        assert not torch.allclose(buffers[name]["mean"][1], 0.1 * mean)


@pytest.mark.parametrize("step", [0, 1])
def test_running_statistics_of_each_step_are_used_at_evaluation(step: int) -> None:
    net, tasks = problems.network(), problems.tasks()
    algorithm, h, meta, buffers = trained_statistics(net, tasks)
    task = problems.one(tasks, 0)
    shift = 0.5 * (torch.arange(2) == step).double()[:, None]
    moved = trees.map(lambda rows: rows + shift, buffers)
    outputs = [
        algorithm.predict(net, algorithm.adapt(net, meta, averages, task.support, h), task.query.x)
        for averages in (buffers, moved)
    ]
    assert not torch.allclose(*outputs)


def test_evaluation_under_running_statistics_judges_each_query_alone() -> None:
    net, tasks = problems.network(), problems.tasks()
    algorithm, h, meta, buffers = trained_statistics(net, tasks)
    task = problems.one(tasks, 0)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    together = algorithm.predict(net, learner, task.query.x)
    alone = torch.cat([algorithm.predict(net, learner, x[None]) for x in task.query.x])
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)


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


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["maml", "alpha_maml", "reptile"])
def test_a_cosine_schedule_scales_the_outer_step(name: str, progress: float) -> None:
    slope = meta_of(2.0, 0.0)
    moved = []
    for changes in ({}, {"cosine": True, "final_lr_fraction": 0.1}):
        values = {"outer_lr": 0.05, "outer_optimizer": "sgd", "final_lr_fraction": 1.0, **changes}
        optimizer = algorithms.get(name).optimizer(algorithms.hparams(name, values))
        meta = meta_of(1.0, 0.1)
        moved.append(
            1 - float(optimizer.update(slope, optimizer.init(meta), meta, progress)[0]["theta"]["w"])
        )
    assert moved[0] == pytest.approx(0.1)
    assert moved[1] == pytest.approx(0.1 * optim.cosine(0.1)(progress))


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


def test_alpha_maml_outer_rate_under_adam_moves_by_the_dot_with_adams_last_direction() -> None:
    settings = {"outer_lr": 0.05, "beta_lr": 1e-4, "alpha_lr": 0.0, "inner_lr": 0.1, "beta_max": 1.0}
    optimizer = alpha_maml.optimizer(algorithms.hparams("alpha_maml", settings))
    meta = meta_of(2.0, 0.1)
    state = optimizer.init(meta)
    beta, theta, m, v, direction = 0.05, 2.0, 0.0, 0.0, 0.0
    for step in range(1, 6):
        gradient = 2 * theta  # of w^2
        # Baydin et al. 2018, alg. 5: the gradient with the step that Adam took last
        beta += 1e-4 * gradient * direction
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        direction = m / (1 - 0.9**step) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
        theta -= beta * direction
        slope = {"theta": {"w": 2 * meta["theta"]["w"]}, "alpha": torch.zeros((), dtype=torch.float64)}
        meta, state, logs = optimizer.update(slope, state, meta, 0.0)
        assert float(meta["theta"]["w"]) == pytest.approx(theta, rel=1e-10)
        assert float(logs["lr/outer"]) == pytest.approx(beta, rel=1e-10)
    assert beta > 0.051


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
