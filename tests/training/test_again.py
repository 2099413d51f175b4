"""Trajectories that are looked at again: limits, distances, and steps that keep within them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence
from torch.func import grad

from metabench import algorithms, data
from metabench.algorithms import _policy_search as policies
from metabench.core import MetabenchError, Tree, seeds, trees
from metabench.core.control import Collected, Moves, clipped_ratio, divergence
from metabench.training import again, loop, vectorise
from metabench.training.graphs.trace import TraceCache
from tests.support import small
from tests.training.test_rollouts import problem

LEARNERS = pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("maml", "bandit"),
        ("joint", "bandit"),
        *(pytest.param(name, "navigation", marks=pytest.mark.slow) for name in ("anil", "meta_sgd", "joint")),
    ],
)


def normal(like: Tree, name: str) -> Tree:
    generator = seeds.generator(name)
    return trees.map(lambda leaf: torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype), like)


def collected(name: str, dataset: str, **values: Any) -> tuple[vectorise.Model, Any, Collected]:
    model, tasks = problem(name, dataset, n_tasks=2, inner_steps=2, inner_lr=0.1, **values)
    return model, tasks, again.collect(model, [tasks], 0.5, TraceCache())[0]


def moved(meta: Tree, way: Tree, by: float) -> Tree:
    return trees.map(lambda w, d: w + by * d, meta, way)


@LEARNERS
def test_where_they_acted_policies_are_no_distance_away_and_the_slope_is_the_meta_gradient(
    name: str, dataset: str
) -> None:
    model, tasks, batch = collected(name, dataset)
    expected = vectorise.meta_gradient(model, tasks, 0.5)
    _, logs = again.collect(model, [tasks], 0.5)
    torch.testing.assert_close(logs["return"], expected.logs["return"])
    weight = torch.tensor(3.0, dtype=torch.float64)
    for limits in ((None, None), (0.2, weight)):
        torch.testing.assert_close(
            batch.gradient(model.meta, *limits), expected.gradient, atol=1e-12, rtol=1e-9
        )
    torch.testing.assert_close(batch.judged(model.meta)[0], expected.loss)
    assert float(batch.judged(model.meta)[1]) == pytest.approx(0, abs=1e-14)
    assert float(batch.inner_kl(model.meta)) == pytest.approx(0, abs=1e-14)


@LEARNERS
def test_the_product_is_that_of_the_second_derivative_of_kl(name: str, dataset: str) -> None:
    model, _, batch = collected(name, dataset)
    v = normal(model.meta, "v")
    slope = grad(lambda meta: batch.judged(meta)[1])
    expected = grad(lambda meta: trees.dot(slope(meta), v))(model.meta)
    assert float(trees.norm(expected)) > 1e-3
    torch.testing.assert_close(batch.fisher(model.meta, v), expected, atol=1e-12, rtol=1e-9)


def test_the_slope_is_that_of_limited_ratios_and_the_weighted_distance() -> None:
    model, _, batch = collected("maml", "bandit")
    at, way = moved(model.meta, normal(model.meta, "at"), 0.3), normal(model.meta, "way")
    weight = torch.tensor(0.7, dtype=torch.float64)
    limited, plain = (trees.dot(batch.gradient(at, limit, None), way) for limit in (0.01, None))
    both = trees.dot(batch.gradient(at, None, weight), way)
    ahead, behind = (moved(at, way, by) for by in (1e-5, -1e-5))
    loss, apart = (
        float(of(ahead) - of(behind)) / 2e-5 for of in (lambda meta: batch.judged(meta)[0], batch.inner_kl)
    )
    # The difference errs by 1e-10 of third derivatives, and by 1e-16 / 1e-5 of rounding.
    assert float(plain) == pytest.approx(loss, rel=1e-5)
    assert float(both) == pytest.approx(loss + 0.7 * apart, rel=1e-5)
    assert abs(float(limited) - loss) > 1e-3


@pytest.mark.parametrize("is_discrete", [False, True])
def test_a_divergence_is_that_of_torchs_own_distributions(is_discrete: bool) -> None:
    old, new = normal(
        {"old": torch.zeros(2, 3, 4).double(), "new": torch.zeros(6, 4).double()}, "kl"
    ).values()
    is_on = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double()
    action = torch.zeros(2, 3, dtype=torch.int64) if is_discrete else torch.zeros(2, 3, 2).double()
    y = Moves(action, is_on, is_on, is_on, is_on, old)

    def distribution(outputs: Tensor) -> Any:
        mean, log_std = outputs.chunk(2, -1)
        return Categorical(logits=outputs) if is_discrete else Normal(mean, log_std.exp())

    apart = kl_divergence(distribution(old), distribution(new.view(2, 3, 4)))
    apart = apart if is_discrete else apart.sum(-1)
    torch.testing.assert_close(divergence(new, y), (apart * is_on).sum() / 5)


def test_past_the_limit_a_ratio_gains_nothing_and_still_costs() -> None:
    logits = torch.tensor([[0.0, 1.0]]).double()  # of two arms; the second is likelier than it was
    old = torch.tensor([[0.5, 0.5]]).double().log()
    chosen, one, limit = torch.tensor([[1]]), torch.ones(1, 1).double(), torch.tensor(0.2).double()
    ratio = float(2 * logits.softmax(-1)[0, 1])

    def loss(logits: Tensor, advantage: float) -> Tensor:
        return clipped_ratio(logits, Moves(chosen, advantage * one, old[:, 1:], one, one), limit)

    assert float(loss(logits, 1.0)) == pytest.approx(-1.2)
    assert float(loss(logits, -1.0)) == pytest.approx(ratio)
    assert float(grad(loss)(logits, 1.0).abs().max()) == 0
    assert float(grad(loss)(logits, -1.0).abs().max()) > 0.1
    within = torch.tensor([[0.0, 0.1]]).double()
    assert float(loss(within, 1.0)) == pytest.approx(-2 * float(within.softmax(-1)[0, 1]))


def test_conjugate_gradients_solve_a_small_fisher() -> None:
    model, _, batch = collected("joint", "bandit")
    names, leaves = zip(*trees.items(model.meta), strict=True)
    sizes = [leaf.numel() for leaf in leaves]

    def tree(vector: Tensor) -> Tree:
        parts = dict(zip(names, vector.split(sizes), strict=True))
        shaped = {name: parts[name].view(leaf.shape) for name, leaf in zip(names, leaves, strict=True)}
        return trees.fill(model.meta, shaped)

    def vector(tree: Tree) -> Tensor:
        return torch.cat([leaf.flatten() for leaf in trees.leaves(tree)])

    def damped(v: Tree) -> Tree:
        return trees.map(lambda fv, v: fv + 0.1 * v, batch.fisher(model.meta, v), v)

    n = sum(sizes)
    dense = torch.stack([vector(damped(tree(row))) for row in torch.eye(n, dtype=torch.float64)])
    b = torch.randn(n, generator=seeds.generator("b"), dtype=torch.float64)
    solved = vector(policies.conjugate_gradients(damped, tree(b), n))
    torch.testing.assert_close(solved, torch.linalg.solve(dense, b), atol=1e-8, rtol=1e-8)


def quadratic(loss: Any = None) -> tuple[Collected, Tree, Tensor, Tensor]:
    """Make a batch whose loss is a line and whose KL is a parabola."""
    f = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64))
    g = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    batch = Collected(
        lambda meta, limit, weight: {"x": g},
        lambda meta: ((loss or (lambda x: g @ x))(meta["x"]), 0.5 * meta["x"] @ f @ meta["x"]),
        lambda meta: meta["x"].sum(),
        lambda meta, v: {"x": f @ v["x"]},
    )
    return batch, {"x": torch.zeros(3, dtype=torch.float64)}, f, g


def test_a_trust_region_step_is_the_natural_gradient_to_its_edge() -> None:
    batch, meta, f, g = quadratic()
    h = algorithms.hparams("maml", {"outer_optimizer": "trpo", "max_kl": 0.02})
    out, _, logs = policies.outer(h).search(batch, {}, meta, 0.0)  # type: ignore[misc]
    natural = torch.linalg.solve(f, g)
    expected = -(2 * 0.02 / (g @ natural)).sqrt() * natural
    # Damping holds it back by 1e-5, and rounding may cost one shortening.
    share = float(out["x"][0] / expected[0])
    assert share == pytest.approx(1, abs=1e-4) or share == pytest.approx(policies.SHORTENED, abs=1e-4)
    torch.testing.assert_close(out["x"], share * expected, atol=0, rtol=1e-4)
    assert float(logs["kl"]) <= 0.02
    assert float(logs["line_search_failed"]) == 0


def test_where_no_step_lowers_the_loss_nothing_moves() -> None:
    batch, meta, _, _ = quadratic(lambda x: x.square().sum())
    h = algorithms.hparams("maml", {"outer_optimizer": "trpo"})
    out, _, logs = policies.outer(h).search(batch, {}, meta, 0.0)  # type: ignore[misc]
    assert torch.equal(out["x"], meta["x"])
    assert float(logs["line_search_failed"]) == 1


def test_a_trust_region_step_improves_the_policies_and_keeps_them_near() -> None:
    model, _, batch = collected("maml", "bandit")
    h = dataclasses.replace(model.h, outer_optimizer="trpo", max_kl=0.01)
    out, _, logs = model.algorithm.optimizer(h).search(batch, {}, model.meta, 0.0)
    loss, kl = batch.judged(out)
    assert 0.001 < float(kl) <= 0.01
    assert float(loss) < float(batch.judged(model.meta)[0])
    assert float(logs["line_search_failed"]) == 0


def test_one_epoch_of_promp_is_a_step_of_adam_on_the_meta_gradient() -> None:
    model, tasks, batch = collected("maml", "bandit")
    values = {"outer_lr": 0.01, "epochs": 1}
    promp, adam = (
        model.algorithm.optimizer(dataclasses.replace(model.h, outer_optimizer=name, **values))
        for name in ("promp", "adam")
    )
    gradient = vectorise.meta_gradient(model, tasks, 0.5).gradient
    expected, *_ = adam.update(gradient, adam.init(model.meta), model.meta, 0.5)
    out, *_ = promp.search(batch, promp.init(model.meta), model.meta, 0.5)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-8)


def test_the_weight_of_a_distance_follows_it() -> None:
    weight = torch.tensor(1e-3, dtype=torch.float64)
    for kl, factor in ((0.02, 2.0), (0.012, 1.0), (0.008, 1.0), (0.004, 0.5)):
        out = policies.adapted(weight, torch.tensor(kl), 0.01)
        assert float(out) == pytest.approx(factor * 1e-3)
    assert policies.adapted(weight, torch.tensor(9.0), 0.0) is weight


@pytest.mark.parametrize("name", ["trpo", "promp"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(name: str, tmp_path: Path) -> None:
    values = {"outer_optimizer": name, "kl_target": 1e-9, "kl_weight": 0.1, "inner_steps": 1}
    config = small.acting(dataset="bandit", tasks=12, **values).model_copy(update={"rungs": [4, 12]})
    splits = data.load(config.task)
    (_, first), (report, last) = loop.train(config, splits)
    loop.save_state(tmp_path, first)
    state = loop.load_state(tmp_path, config, splits)
    ((again_report, resumed),) = loop.train(config, splits, state=state)
    for one, other in ((last.meta, resumed.meta), (last.optimizer, resumed.optimizer)):
        assert all(torch.equal(a, b) for a, b in zip(trees.leaves(one), trees.leaves(other), strict=True))
    assert report.val_score == again_report.val_score
    assert trees.norm(trees.map(torch.sub, first.meta, last.meta)) > 0
    assert (name == "promp") == ("kl/weight" in report.logs)


def test_what_has_no_trajectories_is_refused() -> None:
    config = small.regression(outer_optimizer="trpo")
    message = "outer_optimizer='trpo': looks at trajectories again, and regression has none; take adam or sgd"
    with pytest.raises(MetabenchError, match=f"^{re.escape(message)}"):
        loop.build(config, data.load(config.task))
