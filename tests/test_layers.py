"""The fast convolution, moments and pooling: exact at every size, by every route, to second order."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metabench import layers, nets, seeds, trees
from tests.net_problems import (
    EXACT,
    T,
    assert_same,
    autograd_meta_gradient,
    maml_loss,
    problem,
    theirs,
)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("size", [16, 19, 28])
def test_meta_gradient_equals_that_of_torchs_own_layers_at_odd_and_even_sizes(size, order) -> None:
    shape = (1, size, size)
    net, theta, tasks = problem(shape=shape)
    ours = vmap(grad(maml_loss(partial(nets.apply, net), False, order)), in_dims=(None, 0, 0, 0, 0))
    one = trees.map(lambda leaf: leaf[0], ours(theta, *tasks))
    apply = theirs("conv4 pool flatten", "batch", shape)
    first = [leaf[0] for leaf in tasks]
    assert_same(one, autograd_meta_gradient(apply, False, order, F.cross_entropy, theta, *first), **EXACT)


def test_float32_meta_gradient_is_within_1e_5_of_float64() -> None:
    net, theta, tasks = problem(shape=(1, 28, 28))
    meta_gradient = vmap(grad(maml_loss(partial(nets.apply, net), False, 2)), in_dims=(None, 0, 0, 0, 0))
    exact = meta_gradient(theta, *tasks)
    sx, sy, qx, qy = tasks
    rough = meta_gradient(trees.map(lambda leaf: leaf.float(), theta), sx.float(), sy, qx.float(), qy)
    assert trees.norm(trees.map(torch.sub, rough, exact)) < 1e-5 * trees.norm(exact)


def test_gradient_to_the_images_is_exact_and_pixels_that_tie_count_once() -> None:
    net, theta, (x, _, _, _) = problem()
    torchs = theirs("conv4 pool flatten", "batch")
    for images in (x[0], torch.ones_like(x[0])):  # in the second, every window ties
        ours, reference = (
            grad(lambda v, f=f: f(theta, v)[0].square().sum())(images)
            for f in (partial(nets.apply, net), torchs)
        )
        torch.testing.assert_close(ours, reference, **EXACT)


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
    net, theta, tasks = problem()
    meta_gradient = vmap(grad(maml_loss(partial(nets.apply, net), True, 2)), in_dims=(None, 0, 0, 0, 0))
    ours = meta_gradient(theta, *tasks)
    monkeypatch.setattr(layers, "conv_pool", layers.plain_conv_pool)
    assert_same(meta_gradient(theta, *tasks), ours, **EXACT)


def test_a_third_derivative_is_refused_rather_than_wrong() -> None:
    net, theta, (x, _, _, _) = problem(shape=(2, 18, 18))

    def along(t: Tensor) -> Tensor:
        return nets.apply(net, trees.map(lambda leaf: leaf * t, theta), x[0])[0].square().sum()

    with pytest.raises(NotImplementedError, match="third derivative"):
        grad(grad(grad(along)))(torch.ones((), dtype=torch.float64))
