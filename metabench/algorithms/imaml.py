"""iMAML: the exact meta-gradient of an inner problem that pulls towards theta, whatever steps solved it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor
from torch.func import grad, grad_and_value, vjp

from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import _outer_loop as optim
from metabench.core import Algorithm, Aux, Net, Support, Task, Tree, setting, trees


@dataclass(frozen=True)
class Settings(inner.Settings):
    """Number of inner steps, damping and number of conjugate-gradient steps are the authors' for Omniglot."""

    inner_steps: int = setting(16, "inner steps K in meta-training", minimum=0)
    proximal: float = setting(
        1.0, "strength lambda of the pull towards theta; times inner_lr it must stay below 2", above=0
    )
    damping: float = setting(10.0, "added to lambda where the meta-gradient is solved for", minimum=0)
    solver_steps: int = setting(5, "conjugate-gradient steps that solve for a meta-gradient", minimum=1)


def init(net: Net, h: Settings, generator: Generator) -> tuple[Tree, Tree]:
    return {"theta": net.init(generator)}, {}


def pulled(net: Net, theta: Tree, h: Settings, phi: Tree, support: Support) -> tuple[Tensor, Tree]:
    """Return the inner objective, whose pull is on the layers in theta alone, and the batch norm moments."""
    loss, moments = inner.support_loss(net, phi, support)
    apart = trees.map(torch.sub, theta, phi)
    # eq. 3: G(phi, theta) = L_S(phi) + lambda/2 |phi - theta|^2
    return loss + 0.5 * h.proximal * trees.dot(apart, apart), moments


def descend(net: Net, theta: Tree, support: Support, h: Settings, steps: int) -> Tree:
    """Return the adapted parameters as constants, in theta's order."""
    theta = trees.map(torch.Tensor.detach, theta)
    start, slow = inner.partition(net, theta, h.adapt_norm)
    fast, loss = start, partial(pulled, net, start, h)
    for _ in range(steps):
        direction, _ = inner.gradient(loss, fast, slow, support, "first", h.inner_clip)
        fast = trees.map(lambda w, g: w - h.inner_lr * g, fast, direction)
    return {**theta, **fast}


def along(x: Tree, length: Tensor, direction: Tree) -> Tree:
    return trees.map(lambda x, d: x + length * d, x, direction)


def solve(product: Callable[[Tree], Tree], b: Tree, steps: int) -> Tree:
    """Approximate A^-1 b by conjugate gradients, from products with a symmetric A.

    Where A has no positive curvature along the next direction, or nothing is left to solve, what was reached
    stands; where nothing was, it is b itself.
    """
    x, r, p, left = trees.map(torch.zeros_like, b), b, b, trees.dot(b, b)
    for step in range(steps):
        Ap = product(p)
        curvature = trees.dot(p, Ap)
        goes = (curvature > 0) & (left > 0)
        length = torch.where(goes, left / curvature, 1.0 if step == 0 else 0.0)
        x, r = along(x, length, p), along(r, -length, Ap)
        before, left = left, trees.dot(r, r)
        # A direction that stands still has the same curvature again: the steps that are left change nothing.
        p = trees.map(partial(torch.where, goes), along(r, left / before, p), p)
    return x


def implicit(net: Net, phi: Tree, slope: Tree, support: Support, h: Settings) -> Tree:
    """Turn a query loss's gradient at phi into one with respect to theta."""
    fast, slow = inner.partition(net, phi, h.adapt_norm)
    query_fast, query_slow = inner.partition(net, slope, h.adapt_norm)
    strength = h.proximal + h.damping

    def gradient(fast: Tree, slow: Tree) -> Tree:
        return grad(lambda layers: inner.support_loss(net, {**slow, **layers}, support)[0])(fast)

    products = vjp(gradient, fast, slow)[1]

    def product(v: Tree) -> tuple[Tree, Tree]:
        # Without no_grad each product would be recorded to be differentiated, and all of them kept.
        with torch.no_grad():
            return products(v)

    def system(v: Tree) -> Tree:
        return trees.map(lambda v, Hv: v + Hv / strength, v, product(v)[0])

    # eq. 6: v = (I + H / lambda)^-1 grad L_Q(phi)
    v = solve(system, query_fast, h.solver_steps)
    if not slow:
        return v
    # grad_phi G(phi, theta, slow) = 0 holds for all slow: d phi / d slow = -(H + lambda I)^-1 M, with M the
    # mixed second derivative of L_S, so that d L_Q / d slow = its own part - M^T v / lambda.
    return {**slope, **v, **trees.map(lambda g, Mv: g - Mv / strength, query_slow, product(v)[1])}


def task_loss(
    net: Net, meta: Tree, buffers: Tree, task: Task, h: Settings, progress: float
) -> tuple[Tensor, Aux]:
    phi = descend(net, meta["theta"], task.support, h, h.inner_steps)

    def query_loss(phi: Tree) -> tuple[Tensor, Aux]:
        outputs = inner.predict(net, inner.adapted(net, phi, task.support), task.query.x)
        return inner.judge(net, outputs, task.query.y, buffers)

    slope, (loss, aux) = grad_and_value(query_loss, has_aux=True)(phi)
    surrogate = trees.dot(implicit(net, phi, slope, task.support, h), meta["theta"])
    # The query's loss, with the meta-gradient as its gradient.
    return surrogate + (loss - surrogate).detach(), aux


def adapt(net: Net, meta: Tree, buffers: Tree, support: Support, h: Settings) -> Tree:
    phi = descend(net, meta["theta"], support, h, inner.steps_at_evaluation(h))
    return inner.adapted(net, phi, support)


ALGORITHMS = {
    "imaml": Algorithm(
        hparams=Settings,
        init=init,
        task_loss=task_loss,
        adapt=adapt,
        predict=inner.predict,
        optimizer=optim.descend,
        also_called=("Implicit MAML",),
        reference="Rajeswaran et al. 2019, arXiv 1909.04630, algorithms 1 and 2, equations 3 and 6. The "
        "inner loop is gradient descent on G; the authors' code takes plain steps, then one towards theta."
        " Conjugate gradients take a fixed number of steps; where the system has no positive curvature "
        "along the next direction, what was reached stands, and at the first step the query's gradient "
        "itself. With damping delta the system is I + H / (lambda + delta), as in the authors' code "
        "(delta = 10, and twice I); delta = 0 is the paper's equation, and seldom learns where batch norm "
        "makes H indefinite. Norm layers stand still unless "
        "adapt_norm asks for it, where the paper adapts all; their meta-gradient is that of the implicit "
        "function too: the query loss's own part, minus the mixed second derivative of L_S times (H + "
        "lambda I)^-1 grad L_Q. The logged loss is the query's, the gradient that of a surrogate.",
        kinds=("classification", "regression"),
        inner_steps=inner.INNER_STEPS,
        head="linear",
    )
}
