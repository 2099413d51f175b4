"""Meta-gradients agree with independent implementations: higher, torchopt and plain autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metabench.core import HEAD, Net, Task, Tree, trees
from metabench.training import vectorise
from tests.algorithms import problems

ALPHA = 0.3
TOLERANCE = 1e-8  # float64; differences seen are near 1e-15, and a wrong second order shows above 1e-4
NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "group": lambda channels: nn.GroupNorm(2, channels),
    "none": lambda channels: nn.Identity(),
}


def module(theta: Tree, norm: str) -> nn.Sequential:
    """Build the same Conv4 from torch's own layers, with our weights."""
    parts: list[nn.Module] = []
    for index in range(1, 5):
        weight = theta[f"conv{index}"]["weight"]
        parts.append(nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=norm == "none"))
        parts += [NORMS[norm](weight.shape[0]), nn.ReLU(), nn.MaxPool2d(2)]
    head = nn.Linear(theta[HEAD]["weight"].shape[1], problems.WAY)
    built = nn.Sequential(*parts, nn.Flatten(), head).double()
    with torch.no_grad():
        for parameter, value in zip(built.parameters(), ordered(theta), strict=True):
            parameter.copy_(value)
    return built


def ordered(theta: Tree) -> list[torch.Tensor]:
    """List our tensors in the order of the module's parameters."""
    return [leaf for layer in layer_names(theta) for leaf in in_order(theta[layer])]


def layer_names(theta: Tree) -> list[str]:
    body = [f"{kind}{index}" for index in range(1, 5) for kind in ("conv", "norm")]
    return [layer for layer in (*body, HEAD) if layer in theta]


def in_order(layer: Tree) -> list[torch.Tensor]:
    return [layer[key] for key in ("weight", "scale", "bias", "shift") if key in layer]


def rates(theta: Tree, part: str, adapt_norm: bool) -> list[float]:
    """Give each of the module's parameters its inner rate: zero where the inner loop leaves it alone."""
    moves = {
        "maml": lambda layer: True,
        "anil": lambda layer: layer == HEAD,
        "boil": lambda layer: layer != HEAD,
    }
    values = []
    for layer in layer_names(theta):
        is_fast = moves[part](layer) and (adapt_norm or not layer.startswith("norm"))
        values += [ALPHA if is_fast else 0.0] * len(theta[layer])
    return values


def ours(name: str, net: Net, tasks: Task, steps: int, **values: Any) -> tuple[Tree, list[torch.Tensor]]:
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=ALPHA, inner_steps=steps, **values)
    gradient, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=3
    )
    return meta["theta"], ordered(gradient["theta"])


def with_higher(
    built: nn.Sequential, task: Task, steps: int, is_second: bool, lrs: list[float]
) -> list[torch.Tensor]:
    higher = pytest.importorskip("higher")
    parameters = list(built.parameters())
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, lrs, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=ALPHA)
    with higher.innerloop_ctx(built, optimizer, copy_initial_weights=False, track_higher_grads=is_second) as (
        learner,
        inner,
    ):
        for _ in range(steps):
            inner.step(F.cross_entropy(learner(task.support.x), task.support.y))
        loss = F.cross_entropy(learner(task.query.x), task.query.y)
        # without its graph, the inner loop leaves the gradient at the adapted weights: first order
        return list(torch.autograd.grad(loss, parameters if is_second else list(learner.parameters())))


def with_torchopt(
    built: nn.Sequential, task: Task, steps: int, is_second: bool, lrs: list[float]
) -> list[torch.Tensor]:
    torchopt = pytest.importorskip("torchopt")
    start = {name: p.detach().clone().requires_grad_() for name, p in built.named_parameters()}
    fast = {name: p for (name, p), lr in zip(start.items(), lrs, strict=True) if lr}
    params, rule = start, torchopt.sgd(lr=ALPHA)
    state = rule.init(fast)
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(built, params, (task.support.x,)), task.support.y)
        slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=is_second)
        updates, state = rule.update(dict(zip(fast, slopes, strict=True)), state, inplace=False)
        fast = torchopt.apply_updates(fast, updates, inplace=False)
        params = {**params, **fast}
    loss = F.cross_entropy(functional_call(built, params, (task.query.x,)), task.query.y)
    return list(torch.autograd.grad(loss, list(start.values())))


def with_autograd(built: nn.Sequential, task: Task, steps: int, alpha: list[Any]) -> list[torch.Tensor]:
    """Differentiate parameters and rates through steps at given rates, one a parameter (None: stays)."""
    names = [name for name, _ in built.named_parameters()]
    start = [p.detach().clone().requires_grad_() for p in built.parameters()]
    alpha = [None if rate is None else rate.clone().requires_grad_() for rate in alpha]
    params = start
    for _ in range(steps):
        outputs = functional_call(built, dict(zip(names, params, strict=True)), (task.support.x,))
        slopes = torch.autograd.grad(F.cross_entropy(outputs, task.support.y), params, create_graph=True)
        params = [
            p if rate is None else p - rate * g for p, rate, g in zip(params, alpha, slopes, strict=True)
        ]
    outputs = functional_call(built, dict(zip(names, params, strict=True)), (task.query.x,))
    learnt = [*start, *(rate for rate in alpha if rate is not None)]
    return list(torch.autograd.grad(F.cross_entropy(outputs, task.query.y), learnt))


def mean_over_tasks(tasks: Task, gradient: Any) -> list[torch.Tensor]:
    each = [gradient(problems.one(tasks, index)) for index in range(len(tasks.support.y))]
    return [torch.stack(parts).mean(0) for parts in zip(*each, strict=True)]


def close(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(float((a - b).abs().max()) < TOLERANCE for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("name", ["maml", "fomaml"])
@pytest.mark.parametrize(
    ("norm", "adapt_norm"),
    [("batch", False), ("batch", True), ("group", False), ("group", True), ("none", False)],
)
def test_maml_and_fomaml_agree_with_higher_and_torchopt(
    norm: str, adapt_norm: bool, name: str, steps: int
) -> None:
    tasks, net = problems.tasks(2), problems.network(norm=norm)
    assert bool(net.norms) == (norm != "none")
    theta, gradient = ours(name, net, tasks, steps, adapt_norm=adapt_norm)
    lrs, is_second = rates(theta, "maml", adapt_norm), name == "maml"
    for oracle in (with_higher, with_torchopt):
        theirs = partial(oracle, module(theta, norm), steps=steps, is_second=is_second, lrs=lrs)
        assert close(gradient, mean_over_tasks(tasks, theirs))


@pytest.mark.parametrize("derivative", ["second", "first"])
@pytest.mark.parametrize("name", ["anil", "boil"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_anil_and_boil_agree_with_higher_where_other_rates_are_zero(
    norm: str, name: str, derivative: str
) -> None:
    tasks, net = problems.tasks(2), problems.network(norm=norm)
    theta, gradient = ours(name, net, tasks, 3, derivative=derivative)
    lrs, is_second = rates(theta, name, adapt_norm=False), derivative == "second"
    theirs = partial(with_higher, module(theta, norm), steps=3, is_second=is_second, lrs=lrs)
    assert close(gradient, mean_over_tasks(tasks, theirs))


@pytest.mark.parametrize("kind", ["element", "tensor"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_meta_sgd_agrees_with_a_plain_loop(norm: str, steps: int, kind: str) -> None:
    tasks, net = problems.tasks(2), problems.network(norm=norm)
    algorithm, h, meta, buffers = problems.start(
        "meta_sgd", net, inner_lr=ALPHA, inner_lr_spread=0.5, inner_steps=steps, rates=kind
    )
    gradient, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=2
    )
    theta, alpha = meta["theta"], {layer: {} for layer in meta["theta"]} | meta["alpha"]
    alphas = [
        rate
        for layer in layer_names(theta)
        for rate in (in_order(alpha[layer]) or [None] * len(theta[layer]))
    ]
    theirs = partial(with_autograd, module(theta, norm), steps=steps, alpha=alphas)
    assert close([*ordered(gradient["theta"]), *ordered(gradient["alpha"])], mean_over_tasks(tasks, theirs))


def test_first_and_second_order_really_differ() -> None:
    tasks, net = problems.tasks(), problems.network()
    _, second = ours("maml", net, tasks, 3)
    _, first = ours("fomaml", net, tasks, 3)
    assert not close(first, second)


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "boil", "meta_sgd", "alpha_maml", "maml_pp"])
@pytest.mark.parametrize("batch_norm", ["transductive", "support_stats", "with_support"])
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_vectorised_equals_a_plain_loop(name: str, batch_norm: str, adapt_norm: bool) -> None:
    tasks, net = problems.tasks(2), problems.network(batch_norm)
    values = {"adapt_norm": adapt_norm and name != "anil"}  # ANIL moves the head alone
    algorithm, h, meta, buffers = problems.start(name, net, inner_lr=ALPHA, inner_steps=2, **values)
    for progress in (0.05, 0.9):
        gradient, loss, _, _ = vectorise.meta_gradient(
            vectorise.Model(algorithm, net, meta, buffers, h), tasks, progress, chunk=4
        )
        # torch's own autograd, one task at a time, no vmap
        leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), meta)
        scheduled = algorithm.schedule(h, progress)
        losses = [
            algorithm.task_loss(net, leaves, buffers, problems.one(tasks, index), h, scheduled)[0]
            for index in range(len(tasks.support.y))
        ]
        looped = torch.autograd.grad(
            torch.stack(losses).mean(), trees.leaves(leaves), allow_unused=True, materialize_grads=True
        )
        assert close(trees.leaves(gradient), list(looped))
        assert float(loss) == pytest.approx(float(torch.stack(losses).mean().detach()), abs=1e-12)
