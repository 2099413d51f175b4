"""Laws of learners that read unlabelled images: what these add, and when they add nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from metabench.algorithms import maml_semi, protonet, soft_kmeans
from metabench.core import Net, Query, SemiSupport, Support, Task, Tree, seeds, trees
from metabench.core.objectives import OBJECTIVES
from metabench.training import vectorise
from tests.algorithms import problems

N, K, F = 3, 2, 4
REFINEMENTS = list(soft_kmeans.REFINEMENTS)
SUPPORT = {"moments_of": "support"}
ROUNDING = 1e-11  # float64 sums in another order; features are near 1


def identity() -> Net:
    """Build a network whose features are its inputs."""
    net = problems.linear_network(F, OBJECTIVES["classification"])
    return net._replace(way=N, outputs=N)


def normal(*shape: int, name: str = "unlabelled") -> torch.Tensor:
    return torch.randn(shape, generator=seeds.generator("laws", name), dtype=torch.float64)


def rows(n_unlabelled: int = 7) -> SemiSupport:
    y = torch.arange(N).repeat_interleave(K)
    return SemiSupport(normal(N * K, F), y, normal(n_unlabelled, F, name="beside"))


def prototypes(
    support: Support | SemiSupport, refinement: str, meta: Tree | None = None, **values: Any
) -> Tree:
    algorithm, h, drawn, buffers = problems.start("soft_kmeans", identity(), refinement=refinement, **values)
    return algorithm.adapt(identity(), drawn if meta is None else meta, buffers, support, h)


def mask(beta: float, gamma: float) -> Tree:
    """Make a mask that sees no distances: sigmoid(-gamma (d~ - beta)), from logarithms of both."""
    zeros = torch.zeros(20, 5, dtype=torch.float64), torch.zeros(20, dtype=torch.float64)
    output = torch.zeros(2, 20, dtype=torch.float64), torch.tensor([beta, gamma], dtype=torch.float64)
    layers = {"hidden": zeros, "output": output}
    return {"theta": {}, "mask": {name: {"weight": w, "bias": b} for name, (w, b) in layers.items()}}


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_without_unlabelled_images_it_is_the_prototypical_network(refinement: str) -> None:
    task, net = problems.one(problems.tasks(1), 0), problems.network("support_stats")
    algorithm, h, meta, buffers = problems.start("soft_kmeans", net, refinement=refinement)
    plain, its, *_ = problems.start("protonet", net)
    ours, theirs = (
        one.predict(net, one.adapt(net, meta, buffers, task.support, of), task.query.x)
        for one, of in ((algorithm, h), (plain, its))
    )
    assert torch.equal(ours, theirs)


def test_a_mask_of_zeros_leaves_class_means_and_a_mask_of_ones_is_none() -> None:
    support = rows()
    means = protonet.adapt(identity(), {"theta": {}}, {}, Support(support.x, support.y), protonet.Settings())
    closed, opened = (prototypes(support, "masked", mask(*each))["c"] for each in ((-50, 10), (5, 2)))
    assert torch.equal(closed, means["c"])
    assert torch.equal(opened, prototypes(support, "soft")["c"])
    assert problems.largest_difference({"c": opened}, {"c": means["c"]}) > 0.1


def test_the_mask_counts_once() -> None:
    support = rows()
    half = prototypes(support, "masked", mask(0.0, -50))  # gamma = 0: each mask is 1/2
    weights = (-(support.unlabelled[:, None] - support.x.view(N, K, F).mean(1)).square().sum(-1)).softmax(-1)
    sums = support.x.view(N, K, F).sum(1) + 0.5 * weights.T @ support.unlabelled
    expected = sums / (K + 0.5 * weights.sum(0))[:, None]
    assert float((half["c"] - expected).abs().max()) < ROUNDING
    assert torch.allclose(half["taken"], torch.full((7,), 0.5, dtype=torch.float64))


def test_a_cluster_of_no_radius_or_far_away_takes_nothing_and_a_wide_one_takes_what_is_far() -> None:
    support = rows()
    narrow = {"theta": {}, "log_radius": torch.tensor(-300.0, dtype=torch.float64)}
    assert torch.equal(prototypes(support, "cluster", narrow)["c"], prototypes(support, "soft")["c"])
    away = SemiSupport(support.x + 1e3, support.y, support.unlabelled + 1e3)
    one = {"theta": {}, "log_radius": torch.zeros((), dtype=torch.float64)}
    assert torch.equal(prototypes(away, "cluster", one)["c"], prototypes(away, "soft")["c"])
    strange = support._replace(unlabelled=torch.cat([support.unlabelled, torch.full((1, F), 30.0).double()]))
    wide = {"theta": {}, "log_radius": torch.tensor(100.0, dtype=torch.float64).log()}
    taken = prototypes(strange, "cluster", wide)["taken"]
    assert float(taken[-1]) < 1e-6
    learner = prototypes(strange, "cluster", wide)
    assert protonet.predict(identity(), learner, support.x).shape == (N * K, N)  # no class of distractors


def test_the_cluster_is_a_normal_density_of_its_radius_at_the_origin_and_classes_are_of_radius_one() -> None:
    h, p, r = normal(7, F), normal(N, F, name="p"), torch.tensor(3.0, dtype=torch.float64)
    weights = soft_kmeans.cluster(h, p, {"log_radius": r.log()}, torch.tensor(1.0))
    classes = (-(h[:, None] - p).square().sum(-1)).exp()
    far = (-h.square().sum(-1) / r**2).exp() / r
    assert float((weights - classes / (classes.sum(-1) + far)[:, None]).abs().max()) < ROUNDING


def test_equal_prototypes_share_every_image_alike() -> None:
    h, p = normal(7, F), torch.ones(N, F, dtype=torch.float64)
    assert torch.allclose(soft_kmeans.soft(h, p, {}, torch.tensor(1.0)), torch.full((7, N), 1 / N).double())


@pytest.mark.parametrize("refinements", [1, 3])
def test_of_blobs_far_apart_a_prototype_is_the_mean_of_all_of_its_class(refinements: int) -> None:
    centres = 50 * torch.eye(N, F, dtype=torch.float64)
    y, hidden = torch.arange(N).repeat_interleave(K), torch.tensor([0, 2, 1, 1, 2, 0, 0])
    x, unlabelled = centres[y] + normal(N * K, F), centres[hidden] + normal(7, F, name="blobs")
    learner = prototypes(SemiSupport(x, y, unlabelled), "soft", refinements=refinements)
    expected = [torch.cat([x[y == c], unlabelled[hidden == c]]).mean(0) for c in range(N)]
    assert float((learner["c"] - torch.stack(expected)).abs().max()) < ROUNDING


@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_the_order_of_unlabelled_images_means_nothing(refinement: str) -> None:
    support = rows()
    order = torch.randperm(7, generator=seeds.generator("order"))
    turned = support._replace(unlabelled=support.unlabelled[order])
    before, after = (prototypes(one, refinement) for one in (support, turned))
    assert float((before["c"] - after["c"]).abs().max()) < ROUNDING
    assert float((before["taken"][order] - after["taken"]).abs().max()) < ROUNDING


def test_copies_of_a_classs_one_example_pull_by_the_closed_form() -> None:
    p, m = normal(N, F), 5
    support = SemiSupport(p, torch.arange(N), p[1].expand(m, F))
    w = (-(p - p[1]).square().sum(-1)).softmax(0)
    expected = (p + m * w[:, None] * p[1]) / (1 + m * w)[:, None]
    assert float((prototypes(support, "soft")["c"] - expected).abs().max()) < ROUNDING


def test_the_mask_sees_moments_of_distances_over_their_mean() -> None:
    d = normal(9, N).exp()
    seen = soft_kmeans.statistics(d).numpy()
    theirs = [
        d.amin(0),
        d.amax(0),
        np.var(d.numpy(), 0),
        *(f(d.numpy()) for f in (scipy.stats.skew, scipy.stats.kurtosis)),
    ]
    np.testing.assert_allclose(seen, np.stack([np.asarray(one) for one in theirs], -1), rtol=1e-10)
    same = soft_kmeans.statistics(torch.ones(4, N, dtype=torch.float64))
    assert same.tolist() == [[1, 1, 0, 0, -3]] * N  # and no division by zero
    here = soft_kmeans.masked(
        torch.ones(4, F).double(), torch.ones(N, F).double(), mask(0, 0), torch.tensor(1.0)
    )
    assert bool(here.isfinite().all())


@pytest.mark.parametrize("batch_norm", ["support_stats", "with_support", "transductive"])
def test_without_refinement_it_is_the_prototypical_network_of_the_same_moments(batch_norm: str) -> None:
    task = problems.one(problems.tasks(1, unlabelled=1, distractors=2), 0)
    net = problems.network(batch_norm)
    algorithm, h, meta, buffers = problems.start("soft_kmeans", net, refinement="soft", refinements=0)
    learner = algorithm.adapt(net, meta, buffers, task.support, h)
    beside = torch.cat([task.support.x, task.support.unlabelled])  # type: ignore[attr-defined]
    features, moments = net.embed(meta["theta"], beside)
    c = features[: len(task.support.y)].view(N, K, -1).mean(1)
    assert float((learner["c"] - c).abs().max()) < ROUNDING
    if batch_norm == "support_stats":
        assert problems.largest_difference(learner["moments"], moments) == 0
    alone = algorithm.adapt(net, meta, buffers, task.support, h.__class__(refinements=0, **SUPPORT))
    plain = protonet.adapt(net, meta, buffers, Support(*task.support[:2]), protonet.Settings())
    assert float((alone["c"] - plain["c"]).abs().max()) < ROUNDING


def model(name: str, net: Net, **values: Any) -> vectorise.Model:
    algorithm, h, meta, buffers = problems.start(name, net, **values)
    return vectorise.Model(algorithm, net, meta, buffers, h)


SEMI = {"inner_lr": 0.2, "inner_steps": 2, "unlabelled_weight": 0.7, "threshold": 0.3}
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("soft_kmeans", {"refinement": "soft", "refinements": 2}),
    "cluster": ("soft_kmeans", {"refinement": "cluster", "r_init": 3.0}),
    "masked": ("soft_kmeans", {"refinement": "masked"}),
    "pseudo": ("maml_semi", {**SEMI, "warm_up": 1}),
    "entropy": ("maml_semi", {**SEMI, "warm_up": 0, "unlabelled_loss": "entropy"}),
}


@pytest.mark.parametrize("label", LEARNERS)
def test_the_meta_gradient_through_unlabelled_images_is_that_of_central_differences(label: str) -> None:
    name, values = LEARNERS[label]
    tasks = problems.tasks(2, unlabelled=1, distractors=2)
    its = model(name, problems.smooth_network("support_stats"), **values)
    if label == "masked":  # what the mask sees of distances is constant: here it looks away
        its.meta["mask"]["hidden"]["weight"].zero_()
    gradient, *_ = vectorise.meta_gradient(its, tasks, 0.5, 2)
    for group in its.meta:
        generator = seeds.generator("directions", label, group)
        along = trees.map(lambda w, g=generator: torch.randn(w.shape, generator=g).double(), its.meta[group])

        def loss(step: float, group: str = group, along: Tree = along) -> float:
            moved = trees.map(lambda w, d: w + step * d, its.meta[group], along)
            return float(
                vectorise.meta_gradient(its._replace(meta={**its.meta, group: moved}), tasks, 0.5, 2)[1]
            )

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert float(trees.dot(gradient[group], along)) == pytest.approx(slope, rel=1e-5, abs=1e-8)
        assert abs(slope) > 1e-9


@pytest.mark.parametrize("label", LEARNERS)
def test_the_vectorised_gradient_is_that_of_a_loop(label: str) -> None:
    name, values = LEARNERS[label]
    tasks = problems.tasks(2, unlabelled=1, distractors=2)
    its = model(name, problems.network("support_stats"), **values)
    gradient, loss, *_ = vectorise.meta_gradient(its, tasks, 0.5, 2)
    leaves = trees.map(lambda leaf: leaf.clone().requires_grad_(), its.meta)
    losses = [
        its.algorithm.task_loss(its.net, leaves, {}, problems.one(tasks, index), its.h, 0.5)[0]
        for index in (0, 1)
    ]
    mean = torch.stack(losses).mean()
    looped = torch.autograd.grad(mean, trees.leaves(leaves), allow_unused=True, materialize_grads=True)
    assert float(loss) == pytest.approx(float(mean.detach()), abs=1e-12)
    for ours, theirs in zip(trees.leaves(gradient), looped, strict=True):
        assert float((ours - theirs).abs().max()) < 1e-9


@pytest.mark.parametrize(
    "off",
    [{"unlabelled_weight": 0.0}, {"threshold": 1.0}, {"warm_up": 2}],
    ids=["weight", "threshold", "warm-up"],
)
def test_where_unlabelled_images_count_nothing_it_is_maml(off: dict[str, Any]) -> None:
    tasks, net = problems.tasks(2, unlabelled=1, distractors=2), problems.network("support_stats")
    plain = model("maml", net, inner_lr=0.2, inner_steps=2)
    ours = model("maml_semi", net, **{**SEMI, "warm_up": 0, **off})
    (mine, *_), (theirs, *_) = (vectorise.meta_gradient(one, tasks, 0.5, 2) for one in (ours, plain))
    if "threshold" in off:  # 0 times a gradient is added: the sums are in another order
        assert problems.largest_difference(mine, theirs) < ROUNDING
    else:
        assert all(torch.equal(a, b) for a, b in zip(trees.leaves(mine), trees.leaves(theirs), strict=True))
    others, *_ = vectorise.meta_gradient(model("maml_semi", net, **{**SEMI, "warm_up": 0}), tasks, 0.5, 2)
    assert problems.largest_difference(others, theirs) > 1e-6


def test_pseudo_labels_are_the_likeliest_classes_of_sure_images_and_constants() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0.2, 0, 0.1], [0, 0, 5.0]], dtype=torch.float64)
    p = logits.softmax(-1)
    losses = maml_semi.pseudo(logits, 0.8)
    assert losses.tolist() == pytest.approx([-float(p[0, 0].log()), 0, -float(p[2, 2].log())])
    assert maml_semi.entropy(logits, 0.8).tolist() == pytest.approx(
        scipy.stats.entropy(p.numpy(), axis=1).tolist()
    )
    slope = torch.func.grad(lambda z: maml_semi.pseudo(z, 0.8).sum())(logits)
    assert torch.allclose(slope[0], p[0] - torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert not slope[1].any()


def test_a_learner_that_refines_at_evaluation_alone_trains_as_the_prototypical_network() -> None:
    tasks, net = problems.tasks(2, unlabelled=1, distractors=2), problems.network("support_stats")
    values = {"refinement": "soft", "refine_in_training": False, **SUPPORT}
    (ours, *_), (theirs, *_) = (
        vectorise.meta_gradient(model(name, net, **of), tasks, 0.5, 2)
        for name, of in (("soft_kmeans", values), ("protonet", {}))
    )
    assert problems.largest_difference(ours, theirs) < ROUNDING
    task = problems.one(tasks, 0)
    assert isinstance(task, Task)
    its = model("soft_kmeans", net, **values)
    learner = its.algorithm.adapt(net, its.meta, {}, task.support, its.h)
    assert float(learner["taken"].sum()) == pytest.approx(len(task.support.unlabelled))  # type: ignore[attr-defined]
    assert isinstance(task.query, Query)
