"""Meta-gradients agree with independent implementations: higher, torchopt and plain autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metabench import trees, vectorise
from metabench.core import Task, Tree
from tests.algorithms import problems

ALPHA = 0.3
TOLERANCE = 1e-8  # float64; differences seen are near 1e-15, and a wrong second order shows above 1e-4


def module(theta: Tree) -> nn.Sequential:
    """Build the same Conv4 from torch's own layers, with our weights."""
    layers: list[nn.Module] = []
    for index in range(1, 5):
        weight = theta[f"conv{index}"]["weight"]
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
        norm = nn.BatchNorm2d(weight.shape[0], track_running_stats=False)
        layers += [conv, norm, nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Linear(theta["head"]["weight"].shape[1], problems.WAY)
    built = nn.Sequential(*layers, nn.Flatten(), head).double()
    with torch.no_grad():
        for parameter, value in zip(built.parameters(), ordered(theta), strict=True):
            parameter.copy_(value)
    return built


def ordered(theta: Tree) -> list[torch.Tensor]:
    """List our tensors in the order of the module's parameters."""
    found = []
    for index in range(1, 5):
        norm = theta[f"norm{index}"]
        found += [theta[f"conv{index}"]["weight"], norm["scale"], norm["shift"]]
    return [*found, theta["head"]["weight"], theta["head"]["bias"]]


def groups(built: nn.Sequential, adapt_norm: bool) -> list[dict[str, Any]]:
    """Give norm layers an inner rate of zero where they are not adapted."""
    norms = [p for layer in built if isinstance(layer, nn.BatchNorm2d) for p in layer.parameters()]
    others = [p for p in built.parameters() if all(p is not norm for norm in norms)]
    return [{"params": others, "lr": ALPHA}, {"params": norms, "lr": ALPHA if adapt_norm else 0.0}]


def ours(name: str, tasks: Task, steps: int, adapt_norm: bool = False) -> tuple[Tree, list[torch.Tensor]]:
    net = problems.network()
    algorithm, h, meta, buffers = problems.start(
        name, net, inner_lr=ALPHA, inner_steps=steps, adapt_norm=adapt_norm
    )
    gradient, *_ = vectorise.meta_gradient(algorithm, net, meta, buffers, tasks, h, 0.5, chunk=3)
    return meta["theta"], ordered(gradient["theta"])


def with_higher(theta: Tree, task: Task, steps: int, is_second: bool, adapt_norm: bool) -> list[torch.Tensor]:
    higher = pytest.importorskip("higher")
    built = module(theta)
    optimizer = torch.optim.SGD(groups(built, adapt_norm), lr=ALPHA)
    with higher.innerloop_ctx(built, optimizer, copy_initial_weights=False, track_higher_grads=is_second) as (
        learner,
        inner,
    ):
        for _ in range(steps):
            inner.step(F.cross_entropy(learner(task.support.x), task.support.y))
        loss = F.cross_entropy(learner(task.query.x), task.query.y)
        if is_second:
            return list(torch.autograd.grad(loss, list(built.parameters())))
        return list(torch.autograd.grad(loss, list(learner.parameters())))


def with_torchopt(theta: Tree, task: Task, steps: int) -> list[torch.Tensor]:
    torchopt = pytest.importorskip("torchopt")
    built = module(theta)
    start = {name: p.detach().clone().requires_grad_() for name, p in built.named_parameters()}
    fast = {name: p for name, p in start.items() if not is_norm(built, name)}
    slow = {name: p for name, p in start.items() if is_norm(built, name)}
    rule = torchopt.sgd(lr=ALPHA)
    state = rule.init(fast)
    for _ in range(steps):
        logits = torch.func.functional_call(built, {**fast, **slow}, (task.support.x,))
        loss = F.cross_entropy(logits, task.support.y)
        gradients = dict(
            zip(fast, torch.autograd.grad(loss, list(fast.values()), create_graph=True), strict=True)
        )
        updates, state = rule.update(gradients, state, inplace=False)
        fast = torchopt.apply_updates(fast, updates, inplace=False)
    logits = torch.func.functional_call(built, {**fast, **slow}, (task.query.x,))
    return list(torch.autograd.grad(F.cross_entropy(logits, task.query.y), list(start.values())))


def is_norm(built: nn.Sequential, name: str) -> bool:
    return isinstance(built[int(name.split(".")[0])], nn.BatchNorm2d)


def mean_over_tasks(tasks: Task, gradient: Any) -> list[torch.Tensor]:
    each = [gradient(problems.one(tasks, index)) for index in range(len(tasks.support.y))]
    return [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]


def close(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(float((a - b).abs().max()) < TOLERANCE for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_maml_agrees_with_higher(steps: int, adapt_norm: bool) -> None:
    tasks = problems.tasks()
    theta, gradient = ours("maml", tasks, steps, adapt_norm)
    assert close(
        gradient, mean_over_tasks(tasks, lambda task: with_higher(theta, task, steps, True, adapt_norm))
    )


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_fomaml_agrees_with_higher(steps: int) -> None:
    tasks = problems.tasks()
    theta, gradient = ours("fomaml", tasks, steps)
    assert close(gradient, mean_over_tasks(tasks, lambda task: with_higher(theta, task, steps, False, False)))


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_maml_agrees_with_torchopt(steps: int) -> None:
    tasks = problems.tasks()
    theta, gradient = ours("maml", tasks, steps)
    assert close(gradient, mean_over_tasks(tasks, lambda task: with_torchopt(theta, task, steps)))


def test_first_and_second_order_really_differ() -> None:
    tasks = problems.tasks()
    _, second = ours("maml", tasks, 3)
    _, first = ours("fomaml", tasks, 3)
    assert not close(first, second)


@pytest.mark.parametrize("name", ["maml", "fomaml", "alpha_maml", "maml_pp"])
@pytest.mark.parametrize("batch_norm", ["transductive", "support_stats"])
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_vectorised_equals_a_plain_loop(name: str, batch_norm: str, adapt_norm: bool) -> None:
    tasks, net = problems.tasks(), problems.network(batch_norm)
    algorithm, h, meta, buffers = problems.start(
        name, net, inner_lr=ALPHA, inner_steps=2, adapt_norm=adapt_norm
    )
    for progress in (0.05, 0.9):
        gradient, loss, _, _ = vectorise.meta_gradient(
            algorithm, net, meta, buffers, tasks, h, progress, chunk=4
        )
        # torch's own autograd, one task at a time, no vmap
        leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), meta)
        losses = [
            algorithm.task_loss(net, leaves, buffers, problems.one(tasks, index), h, progress)[0]
            for index in range(len(tasks.support.y))
        ]
        looped = torch.autograd.grad(
            torch.stack(losses).mean(), trees.leaves(leaves), allow_unused=True, materialize_grads=True
        )
        assert close(trees.leaves(gradient), list(looped))
        assert float(loss) == pytest.approx(float(torch.stack(losses).mean().detach()), abs=1e-12)
