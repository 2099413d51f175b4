"""MAML and FOMAML give the numbers that anyone can work out by hand, for y = w . x and half of y squared."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from metabench import algorithms
from metabench.algorithms import _inner_loop as inner
from metabench.core import Net, Objective, Query, Support, Task, Tree, seeds, trees
from metabench.core.metrics import ERROR
from metabench.training import vectorise
from tests.algorithms import problems

ALPHA = 0.5
W = [2.0, 3.0, 5.0]


class Numbers(NamedTuple):
    """What one inner step at rate ALPHA from W gives."""

    support: list[float]
    query: list[float]
    support_loss: float
    adapted: list[float]  # w' = w - alpha * (w . x) x
    query_loss: float
    gradient: list[float]


# w . x = 23, so w' = w - 11.5 x = [-9.5, -20, -29.5]; w' . x = -315 at the query, where the gradient with
# respect to w' is g = -315 x = [-1260, -1575, -1890].
# MAML: (I - 0.5 x x^T) g with the support's x: x . g = -10080, so g + 5040 x.
MAML = Numbers(
    [1.0, 2.0, 3.0], [4.0, 5.0, 6.0], 264.5, [-9.5, -20.0, -29.5], 49612.5, [3780.0, 8505.0, 13230.0]
)
# w . x = 53, so w' = w - 26.5 x = [-104, -129.5, -154]; w' . x = -825 at the query. FOMAML: g = -825 x.
FOMAML = Numbers(
    [4.0, 5.0, 6.0], [1.0, 2.0, 3.0], 1404.5, [-104.0, -129.5, -154.0], 340312.5, [-825.0, -1650.0, -2475.0]
)


def half_square(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (outputs**2).mean() / 2


def dot_network() -> Net:
    """Build y = w . x as a body, under a head that is the identity."""

    def init(generator: torch.Generator) -> Tree:
        return {"body": {"w": torch.tensor(W)}, "head": {"weight": torch.ones(1, 1), "bias": torch.zeros(1)}}

    return problems.linear_network(3, Objective(ERROR, half_square, half_square))._replace(
        init=init,
        embed=lambda params, x, moments=None: (x @ params["body"]["w"][:, None], {}),
        features=1,
        norms=("head",),  # so that the inner loop leaves it the identity
    )


@pytest.mark.parametrize(("name", "numbers"), [("maml", MAML), ("fomaml", FOMAML)])
def test_one_step_gives_the_numbers_worked_out_by_hand(name: str, numbers: Numbers) -> None:
    net, algorithm = dot_network(), algorithms.get(name)
    h = algorithms.hparams(name, {"inner_lr": ALPHA, "inner_steps": 1})
    meta, buffers = algorithm.init(net, h, seeds.generator("hand"))
    x = [torch.tensor([[row]], dtype=torch.float64) for row in (numbers.support, numbers.query)]
    y = torch.zeros(1, 1, 1, dtype=torch.float64)
    tasks = Task(Support(x[0], y), Query(x[1], y), torch.zeros(1, 1, dtype=torch.int64))
    meta = trees.map(torch.Tensor.double, meta)
    support = problems.one(tasks, 0).support
    assert float(inner.support_loss(net, meta["theta"], support)[0]) == numbers.support_loss
    learner = algorithm.adapt(net, meta, buffers, support, h)
    assert learner["params"]["body"]["w"].tolist() == numbers.adapted
    gradient, loss, *_ = vectorise.meta_gradient(
        vectorise.Model(algorithm, net, meta, buffers, h), tasks, 0.5, chunk=1
    )
    assert float(loss) == numbers.query_loss
    assert gradient["theta"]["body"]["w"].tolist() == numbers.gradient
