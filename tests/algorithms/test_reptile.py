"""Reptile's meta-gradient is theta - phi, with phi from torch's own optimisers on the same mini-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metabench import algorithms, nets
from metabench.algorithms import reptile
from metabench.core import Net, Query, Support, Task, Tree, trees
from metabench.core.objectives import OBJECTIVES
from metabench.training import loop as training
from metabench.training import vectorise
from tests.algorithms import problems
from tests.algorithms.modules import close, conv4, load, ordered, values
from tests.support import small

TORCH = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1, betas=(0.0, 0.999), eps=1e-8),
}
SETTINGS: dict[str, Any] = {"inner_lr": 0.1, "inner_steps": 4, "inner_batch": 4}


def shot_major(part: Support | Query) -> tuple[torch.Tensor, torch.Tensor]:
    """Reorder examples sorted by class to one of each class, shot by shot."""
    shots = len(part.y) // problems.WAY
    order = [label * shots + shot for shot in range(shots) for label in range(problems.WAY)]
    return part.x[order], part.y[order]


def shots_of(*parts: Support | Query) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """List examples one by one, those of the first part first."""
    return [pair for part in parts for pair in zip(*shot_major(part), strict=True)]


def train(
    optimizer: torch.optim.Optimizer,
    built: torch.nn.Module,
    examples: list[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    size: int,
) -> None:
    """Take torch's steps on mini-batches of examples dealt in turn."""
    dealt = 0
    for _ in range(steps):
        hand = [examples[(dealt + i) % len(examples)] for i in range(size)]
        dealt += size
        x, y = (torch.stack(column) for column in zip(*hand, strict=True))
        optimizer.zero_grad()
        F.cross_entropy(built(x), y).backward()
        optimizer.step()


def gradient_of(tasks: Task, buffers: Tree = None, **changes: Any) -> tuple[Tree, Tree, Tree]:
    """Return theta, the meta-gradient and the new buffers."""
    net = problems.network()
    algorithm, h, meta, fresh = problems.start("reptile", net, **{**SETTINGS, **changes})
    start = fresh if buffers is None else buffers
    gradient, _, _, new = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, start, h), tasks, 0.5, chunk=3
    )
    return meta["theta"], gradient["theta"], new


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("size", [4, 0])
def test_the_meta_gradient_is_theta_minus_phi_of_torchs_optimiser(inner_optimizer: str, size: int) -> None:
    """Four batches of four go round fifteen examples; tolerance is that of the oracles."""
    tasks = problems.tasks(2)
    theta, gradient, _ = gradient_of(tasks, inner_optimizer=inner_optimizer, inner_batch=size)
    apart = []
    for index in range(2):
        built, task = conv4(theta), problems.one(tasks, index)
        examples = shots_of(task.support, task.query)
        train(TORCH[inner_optimizer](built.parameters()), built, examples, 4, size or len(examples))
        apart.append([a - b for a, b in zip(ordered(theta), values(built), strict=True)])
    expected = [torch.stack(parts).mean(0) for parts in zip(*apart, strict=True)]
    assert max(float(part.abs().max()) for part in expected) > 1e-2
    assert close(ordered(gradient), expected)


def test_one_step_on_all_examples_is_joint_sgd() -> None:
    tasks = problems.tasks(3)
    theta, gradient, _ = gradient_of(
        tasks, inner_optimizer="sgd", inner_steps=1, inner_batch=0, inner_lr=0.25
    )
    built = conv4(theta)
    for index in range(3):
        task = problems.one(tasks, index)
        x, y = torch.cat([task.support.x, task.query.x]), torch.cat([task.support.y, task.query.y])
        (F.cross_entropy(built(x), y) / 3).backward()
    assert close(ordered(gradient), [0.25 * parameter.grad for parameter in built.parameters()])


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
def test_no_inner_step_leaves_nothing_to_move(inner_optimizer: str) -> None:
    _, gradient, _ = gradient_of(problems.tasks(2), inner_optimizer=inner_optimizer, inner_steps=0)
    assert all(not leaf.any() for leaf in trees.leaves(gradient))


def test_norm_layers_stand_still_where_they_are_not_adapted() -> None:
    _, gradient, _ = gradient_of(problems.tasks(2), adapt_norm=False)
    assert {name for name, layer in gradient.items() if not layer_moves(layer)} == set(
        problems.network().norms
    )


def layer_moves(layer: Tree) -> bool:
    return any(bool(leaf.any()) for leaf in trees.leaves(layer))


def test_one_task_at_the_full_outer_rate_replaces_theta_by_phi() -> None:
    net, task = problems.network(), problems.tasks(1)
    algorithm, h, meta, buffers = problems.start("reptile", net, **SETTINGS)
    gradient, *_ = vectorise.meta_gradient(vectorise.Model(algorithm, net, meta, buffers, h), task, 0.0, 1)
    optimizer = algorithm.optimizer(h)
    moved, *_ = optimizer.update(gradient, optimizer.init(meta), meta, 0.0)
    one = problems.one(task, 0)
    both = zip(shot_major(one.support), shot_major(one.query), strict=True)
    examples = Support(*(torch.cat(halves) for halves in both))
    phi, _ = reptile.descend(net, meta["theta"], buffers, examples, h, 4)
    # theta - (theta - phi) is phi but for rounding
    assert problems.largest_difference(moved["theta"], phi) < 1e-14


def test_adams_second_moments_carry_over_to_the_next_task() -> None:
    """Torch's optimiser keeps its state while the parameters are put back."""
    tasks = problems.tasks(2)
    first, second = (single(tasks, i) for i in (0, 1))
    theta, _, buffers = gradient_of(first)
    _, gradient, buffers = gradient_of(second, buffers)
    built = conv4(theta)
    optimizer = TORCH["adam"](built.parameters())
    for index in (0, 1):
        load(built, theta)
        task = problems.one(tasks, index)
        train(optimizer, built, shots_of(task.support, task.query), 4, 4)
    assert close(ordered(gradient), [a - b for a, b in zip(ordered(theta), values(built), strict=True)])
    moments = [optimizer.state[parameter]["exp_avg_sq"] for parameter in built.parameters()]
    assert close(ordered(buffers["v"]), moments)
    assert float(buffers["step"]) == 8
    _, fresh, _ = gradient_of(second)
    assert not close(ordered(fresh), ordered(gradient))


def single(tasks: Task, index: int) -> Task:
    """Cut one task out and keep the leading axis."""
    return vectorise.cut(tasks, slice(index, index + 1))


def test_second_moments_are_averaged_over_tasks() -> None:
    tasks = problems.tasks(3)
    _, _, together = gradient_of(tasks)
    each = [gradient_of(single(tasks, i))[2] for i in range(3)]
    mean = trees.map(lambda *leaves: torch.stack(leaves).mean(0), *each)
    assert problems.largest_difference(together, mean) < 1e-12
    assert problems.largest_difference(each[0]["v"], each[1]["v"]) > 1e-6


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
def test_evaluation_goes_round_the_support_set_from_the_moments_of_training(inner_optimizer: str) -> None:
    net, tasks = problems.network(), problems.tasks(2)
    algorithm, h, meta, _ = problems.start(
        "reptile", net, **SETTINGS, inner_optimizer=inner_optimizer, eval_steps=7
    )
    _, _, buffers = gradient_of(tasks, inner_optimizer=inner_optimizer)
    task = problems.one(tasks, 0)
    built = conv4(meta["theta"])
    optimizer = TORCH[inner_optimizer](built.parameters())
    if buffers:
        for parameter, moment in zip(built.parameters(), ordered(buffers["v"]), strict=True):
            optimizer.state[parameter] = {
                "step": torch.tensor(4.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": moment.clone(),
            }
    train(optimizer, built, shots_of(task.support), 7, 4)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    assert close(ordered(learner["params"]), values(built))


def test_the_logged_accuracy_is_that_of_phi_on_queries_it_has_learnt() -> None:
    net, task = problems.network(), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("reptile", net, **{**SETTINGS, "inner_steps": 30})
    _, aux = algorithm.task_loss(net, meta, buffers, task, h, 0.5)
    assert float(aux.logs["accuracy"]) == 1
    still = algorithms.hparams("reptile", {"inner_steps": 0})
    _, aux = algorithm.task_loss(net, meta, buffers, task, still, 0.5)
    logits, _ = nets.apply(net, meta["theta"], task.query.x)
    assert float(aux.logs["accuracy"]) == float((logits.argmax(-1) == task.query.y).double().mean()) < 1


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_the_outer_step_falls_along_a_line_to_its_final_share(final: float) -> None:
    h = algorithms.hparams("reptile", {"outer_lr": 0.8, "final_lr_fraction": final})
    optimizer = reptile.optimizer(h)
    meta = {"theta": {"w": torch.tensor([3.0], dtype=torch.float64)}}
    for progress in (0.0, 0.5, 1.0):
        moved, _, logs = optimizer.update(
            {"theta": {"w": torch.ones(1, dtype=torch.float64)}}, optimizer.init(meta), meta, progress
        )
        rate = 0.8 * (1 - progress * (1 - final))
        assert float(moved["theta"]["w"]) == pytest.approx(3 - rate, abs=1e-15)
        assert float(logs["lr/outer"]) == pytest.approx(rate)


@pytest.mark.parametrize("inner_optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch_norm", ["transductive", "with_support"])
def test_vectorised_equals_a_plain_loop(inner_optimizer: str, batch_norm: str) -> None:
    tasks, net = problems.tasks(3), problems.network(batch_norm)
    algorithm, h, meta, buffers = problems.start("reptile", net, **SETTINGS, inner_optimizer=inner_optimizer)
    gradient, loss, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=2
    )
    leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    losses = [
        algorithm.task_loss(net, leaves, buffers, problems.one(tasks, index), h, 0.5)[0] for index in range(3)
    ]
    mean = torch.stack(losses).mean()
    assert close(trees.leaves(gradient), list(torch.autograd.grad(mean, trees.leaves(leaves))))
    assert float(loss) == pytest.approx(float(mean.detach()), abs=1e-12)


@pytest.mark.parametrize("batch_norm", ["transductive", "support_stats", "with_support"])
def test_a_query_sees_other_queries_only_where_batch_norm_is_transductive(batch_norm: str) -> None:
    net, task = problems.network(batch_norm), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("reptile", net, **SETTINGS, eval_steps=-1)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    together = algorithm.predict(net, learner, task.query.x)[:1]
    alone = algorithm.predict(net, learner, task.query.x[:1])
    assert bool((together - alone).abs().max() < 1e-10) == (batch_norm != "transductive")


def test_without_transduction_each_query_is_normalised_beside_the_whole_support_set() -> None:
    net, task = problems.network("with_support"), problems.one(problems.tasks(1), 0)
    algorithm, h, meta, buffers = problems.start("reptile", net, **SETTINGS, eval_steps=2)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    built = conv4(learner["params"])
    rows = [built(torch.cat([task.support.x, query[None]]))[-1] for query in task.query.x]
    assert close([algorithm.predict(net, learner, task.query.x)], [torch.stack(rows).detach()])


def line() -> Net:
    """Build a linear model of points with two numbers."""
    weight = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    return problems.network()._replace(
        init=lambda generator: {"head": {"weight": weight, "bias": torch.zeros(1, dtype=torch.float64)}},
        embed=lambda params, x, moments=None: (x, {}),
        features=2,
        outputs=1,
        objective=OBJECTIVES["regression"],
        norm_channels={},
        norms=(),
    )


def test_regression_takes_its_points_in_the_order_they_were_drawn() -> None:
    """Two steps of least squares by hand: w <- w - alpha 2/n X^T (X w - y), three points at a time."""
    net = line()
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).sin().reshape(6, 2)
    y = (x * x).sum(1, keepdim=True)
    task = Task(Support(x[:4], y[:4]), Query(x[4:], y[4:]), torch.zeros(1, dtype=torch.int64))
    settings = {"inner_optimizer": "sgd", "inner_lr": 0.1, "inner_steps": 2, "inner_batch": 3}
    h = algorithms.hparams("reptile", settings)
    meta, buffers = reptile.init(net, h, torch.Generator())
    w, b = meta["theta"]["head"]["weight"].clone(), meta["theta"]["head"]["bias"].clone()
    for points in (slice(0, 3), slice(3, 6)):
        error = x[points] @ w.T + b - y[points]
        w, b = w - 0.1 * 2 / 3 * error.T @ x[points], b - 0.1 * 2 / 3 * error.sum(0)
    (loss, aux), gradient = (
        reptile.task_loss(net, meta, buffers, task, h, 0.5),
        torch.func.grad(lambda meta: reptile.task_loss(net, meta, buffers, task, h, 0.5)[0])(meta),
    )
    head = gradient["theta"]["head"]
    assert close([head["weight"], head["bias"]], [meta["theta"]["head"]["weight"] - w, -b])
    assert float(loss) == pytest.approx(0.5 * float(trees.dot(gradient, gradient)), abs=1e-15)
    assert float(aux.logs["error"]) == pytest.approx(float(((x[4:] @ w.T + b - y[4:]) ** 2).mean()))


def test_training_learns_and_resumes_with_its_second_moments_bit_for_bit(tmp_path: Path) -> None:
    config = small.config("reptile", tasks=96, rungs=(8, 96), inner_steps=5, inner_lr=1e-2, eval_steps=10)
    (early, stopped), (late, whole) = training.train(config, small.splits())
    assert late.val_loss < early.val_loss
    assert late.val_accuracy > 0.65
    training.save_state(tmp_path, stopped)
    loaded = training.load_state(tmp_path, config, small.splits())
    ((_, resumed),) = training.train(config, small.splits(), state=loaded)
    for mine, theirs in zip(resumed[:3], whole[:3], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(trees.leaves(mine), trees.leaves(theirs), strict=True))
    assert float(whole.buffers["step"]) == 5 * 24
