"""Networks: equal to torch's own modules, with derivatives that agree by every route in float64."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from metabench import nets
from metabench.algorithms import _inner_loop as inner
from metabench.core import Support, Tree, trees
from tests.support import torch_networks
from tests.support.net_problems import (
    CASES,
    EVERY,
    EXACT,
    NORMS,
    SHOT,
    WAY,
    T,
    assert_same,
    autograd_meta_gradient,
    config_of,
    maml_loss,
    problem,
    theirs,
)


@EVERY
def test_a_network_equals_the_same_one_of_torchs_own_modules(case, norm) -> None:
    net, theta, (x, _, _, _) = problem(case, norm)
    outputs, moments = nets.apply(net, theta, x[0])
    torch.testing.assert_close(outputs, theirs(case, norm)(theta, x[0])[0], **EXACT)
    assert net.embed(theta, x[0])[0].shape == (WAY * SHOT, net.features)
    assert moments.keys() == net.norm_channels.keys()
    assert all(len(moments[name]["mean"]) == n for name, n in net.norm_channels.items())


@pytest.mark.parametrize(
    ("case", "norm", "order"),
    [
        pytest.param(*which, marks=[pytest.mark.slow] if which[1:] in (("group", 1), ("none", 1)) else [])
        for which in itertools.product(CASES, NORMS, (1, 2))
    ],
)
def test_meta_gradient_is_the_same_by_vmap_by_plain_autograd_and_by_torchs_own_modules(
    case, norm, order
) -> None:
    net, theta, tasks = problem(case, norm)
    ours, loss = partial(nets.apply, net), net.objective.loss
    by_vmap = vmap(grad(maml_loss(ours, False, order, loss)), in_dims=(None, 0, 0, 0, 0))(theta, *tasks)
    for i, task in enumerate(zip(*tasks, strict=True)):
        one = trees.map(lambda leaf, i=i: leaf[i], by_vmap)
        for apply in (ours, theirs(case, norm)):
            assert_same(one, autograd_meta_gradient(apply, False, order, loss, theta, *task), **EXACT)


@pytest.mark.parametrize("case", ["conv4 pool flatten", "conv4 stride mean", "resnet12", "mlp of points"])
def test_meta_gradient_through_the_supports_moments_is_the_same_by_vmap_and_by_plain_autograd(case) -> None:
    net, theta, tasks = problem(case)
    ours, loss = partial(nets.apply, net), net.objective.loss
    by_vmap = vmap(grad(maml_loss(ours, True, 2, loss)), in_dims=(None, 0, 0, 0, 0))(theta, *tasks)
    for i, task in enumerate(zip(*tasks, strict=True)):
        one = trees.map(lambda leaf, i=i: leaf[i], by_vmap)
        assert_same(one, autograd_meta_gradient(ours, True, 2, loss, theta, *task), **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_given_moments_are_used_as_torchs_batch_norm_uses_running_ones(case) -> None:
    net, theta, (support, _, query, _) = problem(case)
    config, shape = config_of(case, "batch")
    _, moments = nets.apply(net, theta, support[0])
    scaled = trees.map(lambda leaf: 1.7 * leaf + 0.1, moments)
    outputs, used = nets.apply(net, theta, query[0], scaled)
    module = torch_networks.with_moments(config, shape, WAY, theta, scaled)
    torch.testing.assert_close(outputs, module(query[0]), **EXACT)
    assert_same(used, scaled, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_a_batch_given_its_own_moments_changes_nothing_and_no_query_sees_another_one(case) -> None:
    net, theta, (support, _, query, _) = problem(case)
    outputs, moments = nets.apply(net, theta, support[0])
    torch.testing.assert_close(nets.apply(net, theta, support[0], moments)[0], outputs, **EXACT)
    together = nets.apply(net, theta, query[0], moments)[0]
    torch.testing.assert_close(together[:1], nets.apply(net, theta, query[0, :1], moments)[0], **EXACT)


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("case", CASES)
def test_without_batch_norm_no_example_sees_another_one(case, norm) -> None:
    net, theta, (_, _, query, _) = problem(case, norm)
    together = nets.apply(net, theta, query[0])[0]
    alone = torch.cat([nets.apply(net, theta, one[None])[0] for one in query[0]])
    torch.testing.assert_close(together, alone, **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_a_query_normalised_with_the_support_is_concatenated_with_it_alone(case) -> None:
    net, theta, (support, y, query, _) = problem(case, batch_norm="with_support")

    def embed(params: Tree, sx: Tensor, sy: Tensor, qx: Tensor) -> Tensor:
        return inner.embed(net, inner.adapted(net, params, Support(sx, sy)), qx)[0]

    scales = torch.linspace(0.8, 1.2, T, dtype=torch.float64)
    thetas = trees.map(lambda leaf: torch.stack([leaf * scale for scale in scales]), theta)
    by_vmap = vmap(embed)(thetas, support, y, query)
    for i in range(T):
        params = trees.map(lambda leaf, i=i: leaf[i], thetas)
        rows = [net.embed(params, torch.cat([support[i], one[None]]))[0][-1] for one in query[i]]
        torch.testing.assert_close(by_vmap[i], torch.stack(rows), **EXACT)
        fewer = embed(params, support[i], y[i], query[i, 1:3].flip(0))
        torch.testing.assert_close(fewer, by_vmap[i, 1:3].flip(0), **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_meta_gradient_through_queries_normalised_with_the_support_is_that_of_the_concatenation(case) -> None:
    net, theta, tasks = problem(case, batch_norm="with_support")

    def by_embed(params: Tree, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        phi = trees.map(lambda p, g: p - 0.3 * g, params, grad(support_loss)(params, sx, sy))
        return net.objective.loss(inner.predict(net, inner.adapted(net, phi, Support(sx, sy)), qx), qy)

    def by_hand(params: Tree, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        phi = trees.map(lambda p, g: p - 0.3 * g, params, grad(support_loss)(params, sx, sy))
        rows = [nets.apply(net, phi, torch.cat([sx, one[None]]))[0][-1] for one in qx]
        return net.objective.loss(torch.stack(rows), qy)

    def support_loss(params: Tree, x: Tensor, y: Tensor) -> Tensor:
        return net.objective.loss(nets.apply(net, params, x)[0], y)

    by_vmap = vmap(grad(by_embed), in_dims=(None, 0, 0, 0, 0))(theta, *tasks)
    first = [leaf[0] for leaf in tasks]
    assert_same(trees.map(lambda leaf: leaf[0], by_vmap), grad(by_hand)(theta, *first), **EXACT)


@EVERY
def test_every_parameter_receives_gradient(case, norm) -> None:
    net, theta, (x, y, _, _) = problem(case, norm)
    gradient = grad(lambda params: net.objective.loss(nets.apply(net, params, x[0])[0], y[0]))(theta)
    assert all(leaf.abs().max() > 0 for leaf in trees.leaves(gradient))


@pytest.mark.parametrize("case", ["conv4 pool flatten", "resnet12"])
def test_vmap_over_trials_and_tasks_equals_a_loop_over_both(case) -> None:
    net, theta, tasks = problem(case)
    trials = trees.map(lambda leaf: torch.stack([leaf, leaf * 0.9]), theta)
    per_trial = vmap(grad(maml_loss(partial(nets.apply, net), True, 2)), in_dims=(None, 0, 0, 0, 0))
    both = vmap(per_trial, in_dims=(0, None, None, None, None))(trials, *tasks)
    for p in range(2):
        alone = per_trial(trees.map(lambda leaf, p=p: leaf[p], trials), *tasks)
        assert_same(trees.map(lambda leaf, p=p: leaf[p], both), alone, **EXACT)


@EVERY
def test_inputs_and_parameters_shared_by_all_tasks_need_no_task_axis(case, norm) -> None:
    net, theta, (x, _, _, _) = problem(case, norm)
    outputs = nets.apply(net, theta, x[0])[0]
    shared = vmap(lambda offset: nets.apply(net, theta, x[0])[0] + offset)(torch.zeros(T).double())
    torch.testing.assert_close(shared, outputs.expand(T, -1, -1), **EXACT)


def test_transductive_logits_do_not_change_when_a_filter_is_rescaled() -> None:
    net, theta, (x, _, _, _) = problem()
    images = x[0] * 100  # large, so that the epsilon beside the variance does not count
    theta["conv1"]["weight"] = theta["conv1"]["weight"] * 100
    scaled = {**theta, "conv1": {"weight": theta["conv1"]["weight"] * 3}}
    torch.testing.assert_close(
        nets.apply(net, scaled, images)[0], nets.apply(net, theta, images)[0], rtol=1e-6, atol=1e-6
    )
