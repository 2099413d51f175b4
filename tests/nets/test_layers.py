"""The fast convolution, moments and pooling: exact at every size, by every route, to second order."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from metabench import nets
from metabench.core import seeds, trees
from metabench.nets import layers
from metabench.nets.kernels import cpu
from metabench.nets.kernels.cpu import kernels
from tests.support.net_problems import (
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


def test_float32_meta_gradients_are_within_1e_5_of_float64() -> None:
    # Of most tasks: a pixel within rounding of zero may fall to either side of a ReLU.
    differences = []
    for size in range(26, 31):
        net, theta, (sx, sy, qx, qy) = problem(shape=(1, size, size))
        each = vmap(grad(maml_loss(partial(nets.apply, net), False, 2)), in_dims=(None, 0, 0, 0, 0))
        exact = each(theta, sx, sy, qx, qy)
        rough = each(trees.map(lambda leaf: leaf.float(), theta), sx.float(), sy, qx.float(), qy)
        differences.append(float(trees.norm(trees.map(torch.sub, rough, exact)) / trees.norm(exact)))
    assert statistics.median(differences) < 1e-5


@pytest.mark.parametrize("channels", [2, 6])  # of which a convolution is computed again, or kept
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_blocks_of_examples_make_no_difference(
    channels: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (channels, 17, 19)
    net, theta, tasks = problem(shape=shape)
    bytes_of_one = 8 * T * 4 * 17 * 19
    gradients = []
    for size in (1 << 40, at_once * bytes_of_one):
        monkeypatch.setattr(kernels, "BYTES", size)
        assert len(kernels.blocks(torch.rand(7, 2, 17, 19, dtype=torch.float64), 4 * T)) == (
            1 if size == 1 << 40 else -(-7 // at_once)
        )
        for uses_moments in (False, True):
            loss = maml_loss(partial(nets.apply, net), uses_moments, 2)
            both = vmap(grad(loss, argnums=(0, 1, 3)), in_dims=(None, 0, 0, 0, 0))(theta, *tasks)
            gradients.append(dict(zip("tsq", both, strict=True)))
    assert_same(gradients[2], gradients[0], **EXACT)
    assert_same(gradients[3], gradients[1], **EXACT)


def test_moments_of_blocks_are_those_of_the_whole_far_from_zero() -> None:
    y = torch.randn(9, 3, 5, 5, generator=seeds.generator("moments"), dtype=torch.float64) + 1e4
    seen = [
        (n / 9, *torch.batch_norm_update_stats(part, None, None, 0.0)) for n, part in parts_of(y, (2, 3, 4))
    ]
    mean, var = cpu._moments(seen)
    torch.testing.assert_close(mean, y.mean((0, 2, 3)), rtol=1e-13, atol=0)
    torch.testing.assert_close(var, y.var((0, 2, 3), correction=0), rtol=1e-8, atol=0)


def parts_of(y: Tensor, sizes: tuple[int, ...]) -> list[tuple[int, Tensor]]:
    return list(zip(sizes, y.split(sizes), strict=True))


def test_what_no_gradient_needs_is_not_kept() -> None:
    x, weight, scale = torch.rand(4, 6, 8, 8), torch.rand(5, 6, 3, 3), torch.ones(5)
    step = torch.ops.metabench.step
    for has_moments in (False, True):
        assert len(step(x, weight, scale, 1, has_moments, False)[0]) == 0
    assert len(step(x, weight.requires_grad_(), scale, 1, True, False)[0]) == 4
    assert len(step(x, weight, scale, 1, False, False)[0]) == 0  # only the moments' gradients take it
    light = step(x[:, :2], weight[:, :2].detach().requires_grad_(), scale, 1, True, False)
    assert len(light[0]) == 0  # computed again


@pytest.mark.parametrize("order", [1, 2])
def test_rectify_has_the_derivatives_of_its_parts(order: int) -> None:
    generator = seeds.generator("rectify")

    def draw(*shape: int) -> Tensor:
        return torch.randn(T, *shape, generator=generator, dtype=torch.float64)

    inputs = draw(4, 3, 5, 6), draw(3), draw(3), torch.stack([draw(3), draw(3).square() + 0.1], 2)

    def plain(x: Tensor, scale: Tensor, shift: Tensor, moments: Tensor) -> Tensor:
        mean, var = moments.unbind(1)
        root = (var + 1e-5).sqrt()
        scale, shift, mean, root = (v[:, None, None] for v in (scale, shift, mean, root))
        return F.relu((x - mean) / root * scale + shift)

    def fused(*inputs: Tensor) -> Tensor:
        return torch.ops.metabench.rectify(*inputs, 1)

    def value(route: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        # The gradient of what is rectified depends on x where the rectified does not, too.
        rectified = route(*inputs)
        return (rectified.square() + rectified * inputs[0].cos()).sum()

    def slope(route: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        slopes = grad(partial(value, route), argnums=every)(*inputs)
        return sum((one.sin() * (place + 1)).sum() for place, one in enumerate(slopes))

    taken, every = {1: value, 2: slope}[order], (0, 1, 2, 3)
    ours, theirs = (vmap(grad(partial(taken, route), argnums=every))(*inputs) for route in (fused, plain))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, **EXACT)


@pytest.mark.parametrize("moved", range(4))
def test_each_derivative_of_rectify_is_differentiated_alone(moved: int) -> None:
    # Where the others are not asked for, their gradients are absent, not zero.
    generator = seeds.generator("rectify", "alone")
    shapes = ((2, 3, 4, 4), (3,), (3,), (3, 2))
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    ]
    inputs[3] = inputs[3].detach().square().add(0.1).requires_grad_()

    def value(*inputs: Tensor) -> Tensor:
        return torch.autograd.grad(
            torch.ops.metabench.rectify(*inputs, 1).square().sum(), inputs, create_graph=True
        )[moved]

    assert torch.autograd.gradcheck(value, inputs)


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
