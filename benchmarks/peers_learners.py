"""Other learners as one writes them with torch alone, task by task or by vmap, for `speed.py` to time.

The steps of `peers.py` with MAML++'s multi-step loss, ANIL's inner loop over the head alone, and prototypical
networks. Support and query pass through the body apart, as in MAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import peers
import torch
import torch.nn.functional as F
from peers import RATE, Call, Peer, Problem
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Weights = dict[str, Tensor]
Slopes = Callable[[Callable[[Weights], Tensor], Weights], Weights]
"""Differentiates a loss of weights, so that the result can be differentiated."""

Loss = Callable[[nn.Sequential, Slopes, Weights, tuple[Tensor, ...], int], Tensor]
"""The loss of one task: (network, slopes, weights, support x, y, query x, y, inner steps)."""


def multi_step(
    net: nn.Sequential, slopes: Slopes, theta: Weights, task: tuple[Tensor, ...], steps: int
) -> Tensor:
    """Average the query loss after each inner step, as MAML++ does at the start of training."""
    sx, sy, qx, qy = task
    fast, total = theta, torch.zeros((), device=sx.device)
    for _ in range(steps):
        direction = slopes(lambda fast: F.cross_entropy(functional_call(net, fast, (sx,)), sy), fast)
        fast = {name: p - RATE * direction[name] for name, p in fast.items()}
        total = total + F.cross_entropy(functional_call(net, fast, (qx,)), qy) / steps
    return total


def anil(net: nn.Sequential, slopes: Slopes, theta: Weights, task: tuple[Tensor, ...], steps: int) -> Tensor:
    """Adapt the head alone, to features that are computed once."""
    sx, sy, qx, qy = task
    body, last = net[:-1], f"{len(net) - 1}."
    support, query = (functional_call(body, _of(theta, last, False), (x,)) for x in (sx, qx))
    head = _of(theta, last, True)
    for _ in range(steps):
        direction = slopes(lambda head: F.cross_entropy(_linear(head, support), sy), head)
        head = {name: p - RATE * direction[name] for name, p in head.items()}
    return F.cross_entropy(_linear(head, query), qy)


def protonet(
    net: nn.Sequential, slopes: Slopes, theta: Weights, task: tuple[Tensor, ...], steps: int
) -> Tensor:
    """Rank classes by the distance to their mean."""
    sx, _, qx, qy = task
    body, last = net[:-1], f"{len(net) - 1}."
    support, query = (functional_call(body, _of(theta, last, False), (x,)) for x in (sx, qx))
    way = net[-1].out_features
    means = torch.stack([support[k::way].mean(0) for k in range(way)])  # labels are 0, 1, ..., 0, 1, ...
    return F.cross_entropy(-(query[:, None] - means).square().sum(-1), qy)


def _of(theta: Weights, last: str, is_head: bool) -> Weights:
    return {name: p for name, p in theta.items() if name.startswith(last) == is_head}


def _linear(head: Weights, features: Tensor) -> Tensor:
    weight, bias = head.values()
    return F.linear(features, weight, bias)


def loop(loss: Loss, problem: Problem, n_tasks: int) -> Call:
    """Take autograd's gradients by hand, task by task."""
    net = peers.conv4(problem.weights)

    def slopes(of: Callable[[Weights], Tensor], weights: Weights) -> Weights:
        gradients = torch.autograd.grad(of(weights), list(weights.values()), create_graph=problem.is_second)
        return dict(zip(weights, gradients, strict=True))

    def one(task: tuple[Tensor, ...]) -> list[Tensor]:
        theta = {name: p.detach().requires_grad_() for name, p in net.named_parameters()}
        query_loss = loss(net, slopes, theta, task, problem.steps)
        return list(torch.autograd.grad(query_loss, list(theta.values()), materialize_grads=True))

    return lambda: peers.mean([one(problem.at(index)) for index in range(n_tasks)])


def vectorised(loss: Loss, problem: Problem, n_tasks: int) -> Call:
    """Take torch.func's gradients of all tasks at once."""
    net = peers.conv4(problem.weights)
    theta = {name: p.detach() for name, p in net.named_parameters()}

    def slopes(of: Callable[[Weights], Tensor], weights: Weights) -> Weights:
        gradients = grad(of)(weights)
        return gradients if problem.is_second else {name: g.detach() for name, g in gradients.items()}

    def one(theta: Weights, *task: Tensor) -> Tensor:
        return loss(net, slopes, theta, task, problem.steps)

    tasks = tuple(leaf[:n_tasks] for leaf in problem.tasks)
    over_tasks = vmap(grad(one), in_dims=(None, 0, 0, 0, 0))
    return lambda: [leaf.mean(0) for leaf in over_tasks(theta, *tasks).values()]


def both(loss: Loss) -> Mapping[str, Peer]:
    """Return the two ways of one learner."""
    return {
        "loop": Peer(partial(loop, loss), "torch", True),
        "vmap": Peer(partial(vectorised, loss), "torch", False),
    }


LEARNERS: Mapping[str, Mapping[str, Peer]] = {
    "maml": peers.TRAINING,
    "multi_step": both(multi_step),
    "anil": both(anil),
    "protonet": both(protonet),
}
