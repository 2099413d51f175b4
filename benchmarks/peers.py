"""MAML's meta-gradient and adaptation as other libraries have one write it, for `speed.py` to time.

Each is written as its library's own examples are. All take the same weights, tasks and steps: Conv4 of
torch's own layers, batch norm by the batch's own moments, every parameter adapted.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import peers_jax
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

RATE = 0.1


class Problem(NamedTuple):
    """What everybody is given."""

    weights: list[Tensor]  # of `conv4`, in the order of its parameters
    tasks: tuple[Tensor, Tensor, Tensor, Tensor]  # support x, y, query x, y, each with a leading [T]
    steps: int
    is_second: bool

    def at(self, index: int) -> tuple[Tensor, ...]:
        """Return one task."""
        return tuple(leaf[index] for leaf in self.tasks)


Call = Callable[[], list[Tensor]]
"""Computes once: the mean meta-gradient by parameter, or the logits of every task."""


def conv4(weights: list[Tensor]) -> nn.Sequential:
    """Build Conv4 of torch's own layers from convolution, scale and shift of four blocks, and a head."""
    parts: list[nn.Module] = []
    for block in range(4):
        width, channels = weights[3 * block].shape[:2]
        parts.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
        parts += [nn.BatchNorm2d(width, track_running_stats=False), nn.ReLU(), nn.MaxPool2d(2)]
    outputs, features = weights[-2].shape
    built = nn.Sequential(*parts, nn.Flatten(), nn.Linear(features, outputs)).to(weights[0])
    with torch.no_grad():
        for parameter, value in zip(built.parameters(), weights, strict=True):
            parameter.copy_(value)
    return built


def mean(gradients: list[list[Tensor]]) -> list[Tensor]:
    """Average over tasks, parameter by parameter."""
    return [torch.stack(leaves).mean(0) for leaves in zip(*gradients, strict=True)]


def higher_train(problem: Problem, n_tasks: int) -> Call:
    """facebookresearch/higher: a functional copy of module and optimiser, task by task."""
    import higher

    net = conv4(problem.weights)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

    def one(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> list[Tensor]:
        with higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False, track_higher_grads=problem.is_second
        ) as (learner, inner):
            for _ in range(problem.steps):
                inner.step(F.cross_entropy(learner(sx), sy))
            wanted = net if problem.is_second else learner
            return list(torch.autograd.grad(F.cross_entropy(learner(qx), qy), list(wanted.parameters())))

    return lambda: mean([one(*problem.at(index)) for index in range(n_tasks)])


def torchopt_train(problem: Problem, n_tasks: int) -> Call:
    """metaopt/torchopt: its functional optimiser on functional calls, task by task."""
    import torchopt

    net = conv4(problem.weights)
    rule = torchopt.sgd(lr=RATE)

    def one(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> list[Tensor]:
        start = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
        fast, state = start, rule.init(start)
        for _ in range(problem.steps):
            loss = F.cross_entropy(functional_call(net, fast, (sx,)), sy)
            slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=problem.is_second)
            updates, state = rule.update(dict(zip(fast, slopes, strict=True)), state, inplace=False)
            fast = torchopt.apply_updates(fast, updates, inplace=False)
            if not problem.is_second:
                fast = {name: p.detach().requires_grad_() for name, p in fast.items()}
        loss = F.cross_entropy(functional_call(net, fast, (qx,)), qy)
        return list(torch.autograd.grad(loss, list((start if problem.is_second else fast).values())))

    return lambda: mean([one(*problem.at(index)) for index in range(n_tasks)])


def loop_train(problem: Problem, n_tasks: int) -> Call:
    """autograd.grad by hand, task by task: what learn2learn's MAML does with its clones of a module."""
    net = conv4(problem.weights)

    def one(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> list[Tensor]:
        start = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
        fast = start
        for _ in range(problem.steps):
            loss = F.cross_entropy(functional_call(net, fast, (sx,)), sy)
            slopes = torch.autograd.grad(loss, list(fast.values()), create_graph=problem.is_second)
            fast = {name: p - RATE * g for (name, p), g in zip(fast.items(), slopes, strict=True)}
            if not problem.is_second:
                fast = {name: p.detach().requires_grad_() for name, p in fast.items()}
        loss = F.cross_entropy(functional_call(net, fast, (qx,)), qy)
        return list(torch.autograd.grad(loss, list((start if problem.is_second else fast).values())))

    return lambda: mean([one(*problem.at(index)) for index in range(n_tasks)])


def vmap_train(problem: Problem, n_tasks: int) -> Call:
    """torch.func's own example of MAML; vmap(grad), since grad(vmap) is wrong with affine batch norm."""
    net = conv4(problem.weights)
    theta = dict(net.named_parameters())

    def loss(fast: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, dict(fast), (x,)), y)

    def one(theta: dict[str, Tensor], sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        fast = theta
        for _ in range(problem.steps):
            slopes = grad(loss)(fast, sx, sy)
            if not problem.is_second:
                slopes = {name: g.detach() for name, g in slopes.items()}
            fast = {name: p - RATE * slopes[name] for name, p in fast.items()}
        return loss(fast, qx, qy)

    tasks = tuple(leaf[:n_tasks] for leaf in problem.tasks)

    def call() -> list[Tensor]:
        detached = {name: p.detach() for name, p in theta.items()}
        gradients = vmap(grad(one), in_dims=(None, 0, 0, 0, 0))(detached, *tasks)
        return [leaf.mean(0) for leaf in gradients.values()]

    return call


def loop_evaluate(problem: Problem, n_tasks: int) -> Call:
    """Adapt and predict, task by task: what every loop library comes down to without its graph."""
    net = conv4(problem.weights)

    def one(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        fast = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
        for _ in range(problem.steps):
            loss = F.cross_entropy(functional_call(net, fast, (sx,)), sy)
            slopes = torch.autograd.grad(loss, list(fast.values()))
            fast = {
                name: (p - RATE * g).detach().requires_grad_()
                for (name, p), g in zip(fast.items(), slopes, strict=True)
            }
        with torch.no_grad():
            return functional_call(net, fast, (qx,))

    return lambda: [torch.stack([one(*problem.at(index)) for index in range(n_tasks)])]


def vmap_evaluate(problem: Problem, n_tasks: int) -> Call:
    """Adapt and predict as torch.func's example does."""
    net = conv4(problem.weights)
    theta = {name: p.detach() for name, p in net.named_parameters()}

    def loss(fast: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, fast, (x,)), y)

    def one(sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        fast = theta
        for _ in range(problem.steps):
            slopes = grad(loss)(fast, sx, sy)
            fast = {name: p - RATE * slopes[name] for name, p in fast.items()}
        return functional_call(net, fast, (qx,))

    tasks = tuple(leaf[:n_tasks] for leaf in problem.tasks)
    return lambda: [torch.no_grad()(vmap(one))(*tasks)]


def jax_train(problem: Problem, n_tasks: int) -> Call:
    """Google's JAX: jit of vmap of grad."""
    tasks = tuple(leaf[:n_tasks] for leaf in problem.tasks)
    return peers_jax.train(problem.weights, tasks, problem.steps, RATE, problem.is_second)


def jax_evaluate(problem: Problem, n_tasks: int) -> Call:
    """Adapt and predict in JAX."""
    tasks = tuple(leaf[:n_tasks] for leaf in problem.tasks)
    return peers_jax.evaluate(problem.weights, tasks, problem.steps, RATE)


class Peer(NamedTuple):
    """Somebody else's way."""

    make: Callable[[Problem, int], Call]
    library: str  # what must be installed
    is_loop: bool  # its speed does not depend on how many tasks it is given


TRAINING: Mapping[str, Peer] = {
    "higher": Peer(higher_train, "higher", True),
    "torchopt": Peer(torchopt_train, "torchopt", True),
    "loop": Peer(loop_train, "torch", True),
    "vmap": Peer(vmap_train, "torch", False),
    "jax": Peer(jax_train, "jax", False),
}

EVALUATION: Mapping[str, Peer] = {
    "loop": Peer(loop_evaluate, "torch", True),
    "vmap": Peer(vmap_evaluate, "torch", False),
    "jax": Peer(jax_evaluate, "jax", False),
}


def present(peers: Mapping[str, Peer]) -> dict[str, Peer]:
    """Return those whose library is installed."""
    return {name: peer for name, peer in peers.items() if importlib.util.find_spec(peer.library)}


def flops(peer: Peer, problem: Problem) -> int:
    """Count the floating-point operations of one task's meta-gradient, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        peer.make(problem, 1)()
    return int(counter.get_total_flops())


__all__: list[Any] = ["EVALUATION", "TRAINING", "Problem", "flops", "present"]
