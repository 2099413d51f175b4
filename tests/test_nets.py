"""Networks: shapes, initial values, refusals, and derivatives that agree by every route in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metabench import layers, nets, seeds, trees
from metabench.config import NetworkConfig
from metabench.core import MetabenchError, Net, Tree

WAY, SHOT, QUERY, T = 3, 1, 2, 3
EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64: rounding of a few thousand sums, far below any wrong term


def build(norm: str = "batch", size: int = 18, channels: int = 2) -> tuple[Net, Tree]:
    net = nets.build(NetworkConfig(width=4, norm=norm), WAY, (channels, size, size))
    generator = seeds.generator("test_nets", norm)
    params = trees.map(lambda leaf: leaf.double(), net.init(generator))
    for name in net.norm_channels:  # both signs: pooling takes another way where a scale is negative
        params[name]["scale"] = torch.tensor([1.2, -0.7, 0.4, -1.5], dtype=torch.float64)
        params[name]["shift"] = torch.randn(4, generator=generator, dtype=torch.float64) / 2
    return net, params


def tasks(size: int = 18, channels: int = 2) -> tuple[Tensor, ...]:
    generator = seeds.generator("test_nets", "tasks")
    x = torch.rand(T, WAY * (SHOT + QUERY), channels, size, size, generator=generator, dtype=torch.float64)
    y = torch.arange(WAY).repeat(SHOT + QUERY).expand(T, -1)
    return x[:, : WAY * SHOT], y[:, : WAY * SHOT], x[:, WAY * SHOT :], y[:, WAY * SHOT :]


def reference(params: Tree, x: Tensor, moments: Tree | None = None) -> tuple[Tensor, Tree]:
    used: Tree = {}
    for block in "1234":
        x = F.conv2d(x, params["conv" + block]["weight"], params["conv" + block].get("bias"), padding=1)
        if "norm" + block in params:
            norm = params["norm" + block]
            given = {"mean": x.mean((0, 2, 3)), "var": x.var((0, 2, 3), correction=0)}
            used["norm" + block] = m = given if moments is None else moments["norm" + block]
            x = (x - m["mean"][:, None, None]) / (m["var"][:, None, None] + 1e-5).sqrt()
            x = x * norm["scale"][:, None, None] + norm["shift"][:, None, None]
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), params["head"]["weight"], params["head"]["bias"]), used


def maml_loss(apply: Callable[..., Any], uses_moments: bool, order: int) -> Callable[..., Tensor]:
    def support_loss(phi: Tree, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(apply(phi, x)[0], y)

    def loss(theta: Tree, sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
        phi = theta
        for _ in range(2):
            gradient = grad(support_loss)(phi, sx, sy)
            if order == 1:
                gradient = trees.map(lambda leaf: leaf.detach(), gradient)
            phi = trees.map(lambda p, g: p - 0.3 * g, phi, gradient)
        moments = apply(phi, sx)[1] if uses_moments else None
        return F.cross_entropy(apply(phi, qx, moments)[0], qy)

    return loss


def autograd_meta_gradient(apply: Callable[..., Any], uses_moments: bool, theta: Tree, *task: Tensor) -> Tree:
    theta = trees.map(lambda leaf: leaf.clone().requires_grad_(), theta)
    sx, sy, qx, qy = task
    phi = theta
    for _ in range(2):
        loss = F.cross_entropy(apply(phi, sx)[0], sy)
        gradient = torch.autograd.grad(loss, trees.leaves(phi), create_graph=True)
        phi = trees.map(lambda p, g: p - 0.3 * g, phi, like(theta, gradient))
    moments = apply(phi, sx)[1] if uses_moments else None
    loss = F.cross_entropy(apply(phi, qx, moments)[0], qy)
    return like(theta, torch.autograd.grad(loss, trees.leaves(theta)))


def like(tree: Tree, leaves: Iterable[Tensor]) -> Tree:
    remaining = iter(leaves)
    return trees.map(lambda _: next(remaining), tree)


def assert_same(left: Tree, right: Tree, **tolerance: float) -> None:
    for (name, a), b in zip(trees.items(left), trees.leaves(right), strict=True):
        torch.testing.assert_close(a, b, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("uses_moments", [False, True])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_second_order_meta_gradient_is_the_same_by_vmap_by_loop_and_by_plain_autograd(
    norm, uses_moments
) -> None:
    net, theta = build(norm)
    loss = maml_loss(partial(nets.apply, net), uses_moments, order=2)
    by_vmap = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(theta, *tasks())
    for i, task in enumerate(zip(*tasks(), strict=True)):
        one = trees.map(lambda leaf, i=i: leaf[i], by_vmap)
        assert_same(one, grad(loss)(theta, *task), **EXACT)
        assert_same(
            one, autograd_meta_gradient(partial(nets.apply, net), uses_moments, theta, *task), **EXACT
        )
        assert_same(one, autograd_meta_gradient(reference, uses_moments, theta, *task), **EXACT)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("size", [16, 19, 28])
def test_meta_gradient_equals_that_of_torchs_own_layers_at_odd_and_even_sizes(size, order) -> None:
    net, theta = build(size=size, channels=1)
    ours, theirs = (
        vmap(grad(maml_loss(apply, False, order)), in_dims=(None, 0, 0, 0, 0))(theta, *tasks(size, 1))
        for apply in (partial(nets.apply, net), reference)
    )
    assert_same(ours, theirs, **EXACT)


def test_float32_meta_gradient_is_within_1e_5_of_torchs_own_layers() -> None:
    net, theta = build(size=28)
    theta, batch = trees.map(lambda leaf: leaf.float(), theta), tasks(28)
    batch = (batch[0].float(), batch[1], batch[2].float(), batch[3])
    ours, theirs = (
        vmap(grad(maml_loss(apply, False, 2)), in_dims=(None, 0, 0, 0, 0))(theta, *batch)
        for apply in (partial(nets.apply, net), reference)
    )
    difference = trees.norm(trees.map(torch.sub, ours, theirs))
    assert difference < 1e-5 * trees.norm(theirs)


def test_vmap_over_trials_and_tasks_equals_a_loop_over_both() -> None:
    net, theta = build()
    trials = trees.map(lambda leaf: torch.stack([leaf, leaf * 0.9]), theta)
    per_trial = vmap(grad(maml_loss(partial(nets.apply, net), True, 2)), in_dims=(None, 0, 0, 0, 0))
    both = vmap(per_trial, in_dims=(0, None, None, None, None))(trials, *tasks())
    for p in range(2):
        alone = per_trial(trees.map(lambda leaf, p=p: leaf[p], trials), *tasks())
        assert_same(trees.map(lambda leaf, p=p: leaf[p], both), alone, **EXACT)


def test_images_and_parameters_shared_by_all_tasks_need_no_task_axis() -> None:
    net, theta = build()
    x = tasks()[0][0]
    logits = vmap(lambda offset: nets.apply(net, theta, x)[0] + offset)(torch.zeros(T, dtype=torch.float64))
    torch.testing.assert_close(logits, nets.apply(net, theta, x)[0].expand(T, -1, -1), **EXACT)


def test_gradient_to_the_images_is_exact_and_pixels_that_tie_count_once() -> None:
    net, theta = build()
    flat = torch.ones_like(tasks()[0][0])  # every window ties
    for x in (tasks()[0][0], flat):
        ours, theirs = (
            grad(lambda v, f=f: f(theta, v)[0].square().sum())(x)
            for f in (partial(nets.apply, net), reference)
        )
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_both_routes_of_conv_pool_agree_under_vmap(device: str) -> None:
    generator = seeds.generator("test_nets", "routes")
    x = torch.rand(T, 4, 2, 7, 9, generator=generator, dtype=torch.float64).to(device)
    weight = torch.randn(T, 3, 2, 3, 3, generator=generator, dtype=torch.float64).to(device)
    scale = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64, device=device)
    for has_moments in (False, True):
        ours, plain = (
            vmap(route, in_dims=(0, 0, None, None))(x, weight, scale, has_moments)
            for route in (layers.conv_pool, layers.plain_conv_pool)
        )
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


def test_the_route_of_other_devices_has_the_same_meta_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    net, theta = build()
    loss = maml_loss(partial(nets.apply, net), True, 2)
    ours = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(theta, *tasks())
    monkeypatch.setattr(layers, "conv_pool", layers.plain_conv_pool)
    assert_same(vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))(theta, *tasks()), ours, **EXACT)


def test_given_moments_are_used_and_a_batch_given_its_own_moments_changes_nothing() -> None:
    net, theta = build()
    support, _, query, _ = (leaf[0] for leaf in tasks())
    logits, moments = nets.apply(net, theta, support)
    torch.testing.assert_close(nets.apply(net, theta, support, moments)[0], logits, **EXACT)
    assert set(moments) == set(net.norm_channels) == {"norm1", "norm2", "norm3", "norm4"}
    together, alone = nets.apply(net, theta, query, moments)[0], nets.apply(net, theta, query[:1], moments)[0]
    torch.testing.assert_close(together[:1], alone, **EXACT)  # no query sees another one


def test_transductive_logits_do_not_change_when_a_filter_is_rescaled() -> None:
    net, theta = build()
    x = tasks()[0][0] * 100  # large, so that the epsilon beside the variance does not count
    theta["conv1"]["weight"] = theta["conv1"]["weight"] * 100
    scaled = {**theta, "conv1": {"weight": theta["conv1"]["weight"] * 3}}
    torch.testing.assert_close(
        nets.apply(net, scaled, x)[0], nets.apply(net, theta, x)[0], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_initial_parameters_are_bounded_by_fan_in_and_come_from_the_generator_alone(norm) -> None:
    net = nets.build(NetworkConfig(width=8, norm=norm), 5, (3, 28, 28))
    params, again = (net.init(seeds.generator("init")) for _ in range(2))
    assert_same(params, again, rtol=0, atol=0)
    assert params["conv1"]["weight"].abs().max() <= 27**-0.5
    assert params["conv2"]["weight"].abs().max() <= 72**-0.5
    assert params["head"]["weight"].shape == (5, 8)
    assert ("bias" in params["conv1"]) == (norm == "none")
    assert ("norm1" in params) == (norm == "batch")
    assert all(leaf.dtype == torch.float32 for leaf in trees.leaves(params))


def test_images_below_16_pixels_and_unknown_networks_are_refused_with_advice() -> None:
    with pytest.raises(MetabenchError, match=r"15 x 28 pixels.*at least 16 x 16"):
        nets.build(NetworkConfig(), 5, (1, 15, 28))
    with pytest.raises(MetabenchError, match="Did you mean 'conv4'"):
        nets.build(NetworkConfig(name="conv"), 5, (1, 28, 28))


def test_a_third_derivative_is_refused_rather_than_wrong() -> None:
    net, theta = build()
    x = tasks()[0][0]

    def along(t: Tensor) -> Tensor:
        return nets.apply(net, trees.map(lambda leaf: leaf * t, theta), x)[0].square().sum()

    with pytest.raises(NotImplementedError, match="third derivative"):
        grad(grad(grad(along)))(torch.ones((), dtype=torch.float64))
