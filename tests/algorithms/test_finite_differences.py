"""Meta-gradients agree with central finite differences where no outside implementation exists."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metabench.core import Tree, seeds, trees
from metabench.training import vectorise
from tests.algorithms import problems

EPSILON = 1e-6
# A central difference in float64 is off by about eps^2 |f'''| + 1e-16 |f| / eps, near 1e-10 here. The network
# has no kinks: an inner step over one is a jump of the outer loss, which no difference quotient survives.
TOLERANCE = 1e-7
MODES = ["transductive", "support_stats", "with_support"]


def check(name: str, group: str, progress: float, n_directions: int = 2, **values: Any) -> None:
    """Compare directional derivatives of the mean loss along random directions within a group of meta."""
    tasks, net = problems.tasks(), problems.smooth_network(values.pop("batch_norm", "transductive"))
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    model, args = vectorise.Model(algorithm, net, meta, buffers, h), (tasks, progress, 4)
    gradient, *_ = vectorise.meta_gradient(model, *args)

    def loss(moved: Tree) -> float:
        return float(vectorise.meta_gradient(model._replace(meta={**meta, group: moved}), *args)[1])

    generator = seeds.generator("directions", name, group)
    for _ in range(n_directions):
        direction = trees.map(
            lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=torch.float64), meta[group]
        )
        ahead = loss(trees.map(lambda w, d: w + EPSILON * d, meta[group], direction))
        behind = loss(trees.map(lambda w, d: w - EPSILON * d, meta[group], direction))
        expected = (ahead - behind) / (2 * EPSILON)
        assert float(trees.dot(gradient[group], direction)) == pytest.approx(
            expected, abs=TOLERANCE, rel=1e-5
        )


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_alpha_maml_inner_rate_hypergradient_is_exact(steps: int) -> None:
    check("alpha_maml", "alpha", 0.5, inner_lr=0.2, inner_steps=steps)


def test_alpha_maml_initialisation() -> None:
    check("alpha_maml", "theta", 0.5, inner_lr=0.2, inner_steps=3)


@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("rates", ["element", "tensor"])
@pytest.mark.parametrize("group", ["theta", "alpha"])
def test_meta_sgd(group: str, rates: str, batch_norm: str) -> None:
    settings = {"inner_lr": 0.2, "inner_lr_spread": 0.5, "inner_steps": 2}
    check("meta_sgd", group, 0.5, rates=rates, batch_norm=batch_norm, **settings)


@pytest.mark.parametrize("name", ["anil", "boil"])
@pytest.mark.parametrize("batch_norm", MODES)
def test_anil_and_boil(name: str, batch_norm: str) -> None:
    check(name, "theta", 0.5, inner_lr=0.3, inner_steps=3, batch_norm=batch_norm)


@pytest.mark.parametrize("batch_norm", MODES)
def test_learned_rates_of_maml_pp(batch_norm: str) -> None:
    check("maml_pp", "alpha", 0.9, inner_lr=0.2, inner_steps=3, batch_norm=batch_norm)


def test_multi_step_loss_with_respect_to_theta_and_per_step_norm_weights() -> None:
    settings = {"inner_lr": 0.2, "inner_steps": 3, "multi_step_fraction": 0.5, "derivative_annealing": False}
    check("maml_pp", "theta", 0.2, **settings)


def test_multi_step_loss_with_respect_to_learned_rates() -> None:
    settings = {"inner_lr": 0.2, "inner_steps": 3, "multi_step_fraction": 0.5, "derivative_annealing": False}
    check("maml_pp", "alpha", 0.2, **settings)


@pytest.mark.parametrize("batch_norm", MODES)
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_maml(batch_norm: str, adapt_norm: bool) -> None:
    check("maml", "theta", 0.5, inner_lr=0.3, inner_steps=2, adapt_norm=adapt_norm, batch_norm=batch_norm)
