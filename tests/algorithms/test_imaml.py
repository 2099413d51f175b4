"""iMAML's meta-gradient is that of the implicit function, by closed forms, dense solves and differences.

Implicit gradients are exact only where the inner problem is solved, so that most tests solve it to rounding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev

from metabench import algorithms, nets
from metabench.algorithms import _inner_loop as inner
from metabench.algorithms import imaml
from metabench.core import MetabenchError, Net, Query, Support, Task, Tree, seeds, trees
from metabench.core.config import NetworkConfig
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from tests.algorithms import problems
from tests.algorithms.test_quadratic import EYE, N_INPUTS, flat, mean, quadratics
from tests.algorithms.test_quadratic import NET as LINE
from tests.algorithms.test_quadratic import TASKS as LINES
from tests.support.counting import held_at_most

TASKS = problems.tasks(1)
MODES = ["transductive", "support_stats", "with_support"]


def tiny_network() -> Net:
    """Build a tanh network of three hidden units whose gains count as a norm layer: they stand still."""

    def init(generator: torch.Generator) -> Tree:
        weight = torch.randn(3, N_INPUTS, generator=generator)
        return {"hidden": {"weight": weight}, "gain": {"scale": torch.ones(3)}, **LINE.init(generator)}

    def embed(params: Tree, x: Tensor, moments: Tree = None) -> tuple[Tensor, Tree]:
        return torch.tanh(x @ params["hidden"]["weight"].T) * params["gain"]["scale"], {}

    return LINE._replace(init=init, embed=embed, norms=("gain",))


TINY = tiny_network()


def learnt(net: Net, tasks: Task, **values: Any) -> tuple[Tree, Tree]:
    """Return meta-parameters and the meta-gradient of theta, averaged over tasks."""
    algorithm, h, meta, buffers = problems.start("imaml", net, **{"damping": 0.0, **values})
    model = vectorise.Model(algorithm, net, meta, buffers, h)
    gradient, *_ = vectorise.meta_gradient(model, tasks, 0.5, chunk=2)
    return meta["theta"], gradient["theta"]


def of(name: str, net: Net, tasks: Task, **values: Any) -> Tree:
    """Return another algorithm's meta-gradient from the same theta."""
    algorithm, h, _, _ = problems.start(name, net, **values)
    meta = problems.start("imaml", net)[2]
    model = vectorise.Model(algorithm, net, meta, {}, h)
    return vectorise.meta_gradient(model, tasks, 0.5, chunk=2)[0]["theta"]


def vector(tree: Tree) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.float64), *(leaf.flatten() for leaf in trees.leaves(tree))])


def like(flat: Tensor, tree: Tree) -> Tree:
    """Cut a vector into the leaves of a tree."""
    parts = iter(flat.split([leaf.numel() for leaf in trees.leaves(tree)]))
    return trees.map(lambda leaf: next(parts).reshape(leaf.shape), tree)


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_on_a_quadratic_the_meta_gradient_has_a_closed_form(strength: float) -> None:
    values = {"inner_lr": 0.15, "inner_steps": 150, "proximal": strength, "solver_steps": N_INPUTS + 1}
    theta, gradient = learnt(LINE, LINES, **values)
    slopes = []
    for A, a, C, b in quadratics():
        pulled = A + strength * EYE
        phi = torch.linalg.solve(pulled, A @ a + strength * flat(theta))
        slopes.append(strength * torch.linalg.solve(pulled, C @ (phi - b)))
    # float64: a linear system of condition about ten, solved twice
    assert float((flat(gradient) - mean(slopes)).abs().max()) < 1e-10


def test_steps_beyond_the_dimension_change_nothing() -> None:
    values = {"inner_lr": 0.1, "inner_steps": 20, "proximal": 0.3}
    exact, many = (learnt(LINE, LINES, **values, solver_steps=n)[1] for n in (N_INPUTS + 1, 60))
    assert problems.largest_difference(exact, many) < 1e-12


def test_an_infinite_pull_is_no_adaptation() -> None:
    expected, apart = of("maml", TINY, LINES, inner_steps=0), []
    for strength in (1e4, 1e5):
        values = {"inner_lr": 0.5 / strength, "inner_steps": 60, "proximal": strength}
        apart.append(problems.largest_difference(learnt(TINY, LINES, **values)[1], expected))
    assert apart[1] < 1e-3
    assert apart[1] == pytest.approx(apart[0] / 10, rel=0.02)  # to first order in 1 / lambda


def test_an_infinite_damping_is_a_constant_inner_loop() -> None:
    values = {"inner_lr": 0.3, "inner_steps": 3}
    damped = learnt(TINY, LINES, **values, proximal=1e-12, damping=1e9)[1]
    assert problems.largest_difference(damped, of("fomaml", TINY, LINES, **values)) < 1e-7


def dense(net: Net, task: Task, theta: Tree, h: Any) -> Tree:
    """Return the implicit gradient at the adapted point by whole matrices, for fast and slow layers."""
    phi = imaml.descend(net, theta, task.support, h, h.inner_steps)
    fast, slow = inner.partition(net, phi, h.adapt_norm)

    def support_loss(moved: Tensor, still: Tensor) -> Tensor:
        return inner.support_loss(net, {**like(moved, fast), **like(still, slow)}, task.support)[0]

    def query_loss(params: Tree) -> Tensor:
        outputs = inner.predict(net, inner.adapted(net, params, task.support), task.query.x)
        return net.objective.loss(outputs, task.query.y)

    slope = grad(query_loss)(phi)
    of_fast, of_slow = (vector(part) for part in inner.partition(net, slope, h.adapt_norm))
    moved, still = vector(fast), vector(slow)
    H = jacrev(grad(support_loss))(moved, still)
    M = jacrev(grad(support_loss), 1)(moved, still)
    u = torch.linalg.solve(H + h.proximal * torch.eye(len(H), dtype=H.dtype), of_fast)
    return {**like(h.proximal * u, fast), **like(of_slow - M.T @ u, slow)}


def check_dense(net: Net, tasks: Task, **values: Any) -> None:
    # lambda is beyond the most negative curvature, -3.4: the system is positive definite
    values |= {"inner_lr": 0.1, "inner_steps": 2, "proximal": 5.0, "damping": 0.0}
    theta, gradient = learnt(net, tasks, **values)
    h, n_tasks = algorithms.hparams("imaml", values), len(tasks.classes)
    each = [dense(net, problems.one(tasks, index), theta, h) for index in range(n_tasks)]
    assert gradient.keys() == each[0].keys()
    for name, layer in gradient.items():
        expected = trees.map(lambda *leaves: sum(leaves) / n_tasks, *(one[name] for one in each))
        # float64, and a system of condition below ten
        assert problems.largest_difference(layer, expected) < 1e-10, name
    assert float(trees.norm({name: gradient[name] for name in net.norms})) > 1e-4


@pytest.mark.parametrize("adapt_norm", [False, True])
def test_after_few_inner_steps_it_is_that_of_a_dense_solve(adapt_norm: bool) -> None:
    check_dense(TINY, LINES, solver_steps=30, adapt_norm=adapt_norm)


@pytest.mark.parametrize("batch_norm", MODES)
def test_it_is_that_of_a_dense_solve_where_moments_depend_on_every_layer(batch_norm: str) -> None:
    check_dense(problems.smooth_network(batch_norm), TASKS, solver_steps=40)


@pytest.mark.parametrize("layer", ["gain", "hidden", "head"])
@pytest.mark.parametrize("adapt_norm", [False, True])
def test_it_is_the_slope_of_the_query_loss_at_the_solved_inner_problem(adapt_norm: bool, layer: str) -> None:
    values = {"inner_lr": 0.2, "inner_steps": 120, "proximal": 2.0, "solver_steps": 30, "damping": 0.0}
    algorithm, h, meta, buffers = problems.start("imaml", TINY, adapt_norm=adapt_norm, **values)
    theta, task = meta["theta"], problems.one(LINES, 0)

    def loss(moved: Tree) -> Tensor:
        return algorithm.task_loss(TINY, {"theta": {**theta, layer: moved}}, buffers, task, h, 0.5)[0]

    generator = seeds.generator("directions of the implicit function")
    direction = trees.map(
        lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=torch.float64), theta[layer]
    )

    def at(epsilon: float) -> float:
        return float(loss(trees.map(lambda w, d: w + epsilon * d, theta[layer], direction)))

    slope = float(trees.dot(grad(loss)(theta[layer]), direction))
    # A central difference is off by about eps^2 |f'''| + 1e-16 |f| / eps, near 1e-10 here.
    assert slope == pytest.approx((at(1e-5) - at(-1e-5)) / 2e-5, abs=1e-8)
    assert abs(slope) > 1e-3


def test_a_direction_without_positive_curvature_ends_the_solve() -> None:
    def product(matrix: list[float]) -> Any:
        return lambda v: {"w": torch.tensor(matrix, dtype=torch.float64) * v["w"]}

    b = {"w": torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)}
    nowhere = imaml.solve(product([-1.0, -2.0, 0.1]), b, 9)["w"]
    assert torch.equal(nowhere, b["w"])
    # The first direction is b, with positive curvature; the second has none.
    once = imaml.solve(product([-1.0, 1.0, 2.0]), b, 1)["w"]
    assert torch.equal(imaml.solve(product([-1.0, 1.0, 2.0]), b, 9)["w"], once)
    assert not torch.equal(once, b["w"])
    nothing = imaml.solve(product([1.0, 1.0, 1.0]), trees.map(torch.zeros_like, b), 3)["w"]
    assert torch.equal(nothing, torch.zeros(3, dtype=torch.float64))


def test_more_steps_of_either_kind_take_no_more_memory() -> None:
    net = nets.build(NetworkConfig(width=4), 3, (1, 16, 16), OBJECTIVES["classification"], 9)
    generator = seeds.generator("memory")
    x, y = torch.rand(1, 30, 1, 16, 16, generator=generator), torch.arange(3).repeat(10)[None]
    tasks = Task(Support(x, y), Query(x[:, :6], y[:, :6]), torch.zeros(1, 3, dtype=torch.int64))

    def held(inner_steps: int, solver_steps: int) -> int:
        values = {"inner_steps": inner_steps, "solver_steps": solver_steps}
        algorithm, h = algorithms.get("imaml"), algorithms.hparams("imaml", values)
        meta, buffers = algorithm.init(net, h, generator)
        model = vectorise.Model(algorithm, net, meta, buffers, h)
        return held_at_most(lambda: vectorise.meta_gradient(model, tasks, 0.5, 1))

    few = held(2, 2)
    assert held(8, 2) <= 1.1 * few
    assert held(2, 8) <= 1.1 * few


def test_evaluation_pulls_too() -> None:
    values = {"inner_lr": 0.15, "inner_steps": 1, "eval_steps": 150, "proximal": 1.0}
    algorithm, h, meta, buffers = problems.start("imaml", LINE, **values)
    learner = algorithm.adapt(LINE, meta, buffers, problems.one(LINES, 0).support, h)
    A, a, _, _ = quadratics()[0]
    expected = torch.linalg.solve(A + EYE, A @ a + flat(meta["theta"]))
    assert torch.allclose(flat(learner["params"]), expected, rtol=0, atol=1e-10)


def test_what_has_no_effect_is_refused() -> None:
    with pytest.raises(MetabenchError, match="recompute=true: has no effect"):
        algorithms.hparams("imaml", {"recompute": True})
    with pytest.raises(MetabenchError, match="proximal=0"):
        algorithms.hparams("imaml", {"proximal": 0})
