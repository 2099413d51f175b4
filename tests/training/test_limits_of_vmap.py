"""What the guide to vmap(grad) says does not work does not, and what it names instead does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)  # [T, n]
Y = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 1, 2], [0, 0, 0]])  # [T, n]

Loss = Callable[[Tensor, Tensor], Tensor]


def filled(x: Tensor) -> Tensor:
    z = torch.zeros(3, dtype=x.dtype)
    z[0] = x[0]
    return z


def added(z: Tensor, x: Tensor) -> Tensor:
    z += x
    return z


BARRED: dict[str, Loss] = {
    "one_hot": lambda x, y: (F.one_hot(y, 3) * x[:, None]).sum(),
    "item": lambda x, y: x.sum() * x.max().item(),
    "float": lambda x, y: x.sum() * float(x.max()),
    "numpy": lambda x, y: x.sum() * float(x.numpy().max()),
    "a tensor of elements": lambda x, y: x.sum() * torch.tensor([x[0], x[1]]).sum(),
    "if": lambda x, y: x.sum() if x.sum() > 0 else -x.sum(),
    "a mask as index": lambda x, y: x[x > 0].sum(),
    "nonzero": lambda x, y: x.sum() * x.nonzero().shape[0],
    "unique": lambda x, y: x.sum() * y.unique().shape[0],
    "an element is set": lambda x, y: filled(x).sum(),
    "adding in place to one task's": lambda x, y: added(torch.zeros(3, dtype=x.dtype), x).sum(),
    "rand": lambda x, y: (x * torch.rand(3, dtype=x.dtype)).sum(),
}

INSTEAD: dict[str, tuple[Loss, Loss]] = {
    "labels are compared": (
        lambda x, y: ((y[:, None] == torch.arange(3)) * x[:, None]).sum(),
        lambda x, y: x.sum(),
    ),
    "where": (lambda x, y: torch.where(x > 0, x, -x).sum(), lambda x, y: x.abs().sum()),
    "a mask is a factor": (lambda x, y: (x * (x > 0)).sum(), lambda x, y: x.clamp(min=0).sum()),
    "stack": (lambda x, y: torch.stack([x[0] * x[1], x[2]]).sum(), lambda x, y: x[0] * x[1] + x[2]),
    "adding in place to a tensor like it": (
        lambda x, y: added(torch.zeros_like(x), x).square().sum(),
        lambda x, y: x.square().sum(),
    ),
    "grad inside": (lambda x, y: grad(lambda w: w.square().sum())(x).sum(), lambda x, y: 2 * x.sum()),
}


@pytest.mark.parametrize("name", BARRED)
def test_what_depends_on_one_tasks_numbers_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError):
        vmap(grad(BARRED[name]))(X, Y)


@pytest.mark.parametrize("name", INSTEAD)
def test_what_stands_for_it_gives_each_tasks_own_gradient(name: str) -> None:
    ours, plain = INSTEAD[name]
    for x, y, gradient in zip(X, Y, vmap(grad(ours))(X, Y), strict=True):
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(plain(leaf, y), leaf)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def test_autograds_own_gradient_is_a_constant_to_the_outer_one() -> None:
    def loss(x: Tensor) -> Tensor:
        return torch.autograd.grad(x.square().sum(), x)[0].sum()

    assert not vmap(grad(loss))(X).any(), "2 everywhere, were it seen through"
