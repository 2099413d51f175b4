"""The kernels compute what the steps on a CPU do, which laws of their own hold to torch's layers."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

pytest.importorskip("triton", reason="no Triton for this platform")

from metabench import nets
from metabench.core import seeds, trees
from metabench.nets.kernels import cpu, gpu, operators
from metabench.nets.kernels.cpu import kernels
from metabench.nets.kernels.cpu.kernels import channels_last
from metabench.nets.kernels.gpu import convolutions, rows
from metabench.nets.kernels.types import Gradients, Passed, Rectified, Saved
from tests.support.net_problems import EXACT, assert_same, maml_loss, problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [
    (2, 1, 3, 2, 5, 7),
    (1, 20, 5, 2, 4, 4),
    *(pytest.param(size, marks=pytest.mark.slow) for size in ((2, 16, 20, 1, 3, 2), (2, 3, 4, 9, 2, 3))),
    (1, 32, 70, 1, 2, 3),
]
"""Groups, channels in and out, images, height and width: odd, even, few channels, more than a block."""


class Inputs:
    """Random inputs of one size in float64, on the device that kernels run on."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.groups, n_in, n_out, n, height, width = size
        self.generator = seeds.generator("kernels", *size)
        self.x = self.draw(n, self.groups * n_in, height, width)
        self.weight = self.draw(self.groups * n_out, n_in, 3, 3)
        self.scale = self.draw(self.groups * n_out)
        self.y = self.draw(n, self.groups * n_out, height, width)

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(DEVICE)

    def like(self, other: Tensor) -> Tensor:
        return self.draw(*other.shape)

    def maybe(self, other: Tensor) -> tuple[Tensor | None, Tensor]:
        return None, self.like(other)


def assert_equal(actual: Any, expected: Any) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.fixture(params=SIZES, ids=str)
def inputs(request: pytest.FixtureRequest) -> Inputs:
    return Inputs(request.param)


@pytest.fixture
def places(inputs: Inputs) -> tuple[Saved, Saved]:
    """Return what a step saves for each route, which tell a pixel's place in different ways."""
    args = (inputs.x, inputs.weight, inputs.scale, inputs.groups, True, True)
    y, _, moments, where = gpu.step(*args)
    saved = Saved(inputs.x, inputs.weight, y, moments, where, inputs.groups, True)
    return saved, saved._replace(where=cpu.step(*args)[3])


def test_convolutions(inputs: Inputs) -> None:
    x, weight, y, groups = inputs.x, inputs.weight, inputs.y, inputs.groups
    forward = kernels.convolve(x, weight, groups)
    back = kernels.convolve(y, kernels.flip(weight, groups), groups)
    assert_equal([convolutions.convolve(x, weight, groups)], [forward])
    onto = y.clone(memory_format=torch.channels_last)
    assert_equal([convolutions.convolve(x, weight, groups, onto=onto)], [forward + y])
    assert_equal([convolutions.convolve(y, weight, groups, is_back=True)], [back])
    assert_equal([convolutions.correlate(x, y, groups)], [kernels.correlate(x, y, groups)])


def test_correlation_is_the_same_however_its_sum_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs((2, 3, 4, 9, 2, 3))
    correlations = []
    for fewest in (1 << 30, 64, 1):
        monkeypatch.setattr(convolutions, "FEWEST", fewest)
        correlations.append(convolutions.correlate(inputs.x, inputs.y, inputs.groups))
    for one in correlations[1:]:
        torch.testing.assert_close(one, correlations[0], **EXACT)


@pytest.mark.parametrize("has_moments", [True, False])
def test_step(inputs: Inputs, has_moments: bool) -> None:
    args = (inputs.x, inputs.weight, inputs.scale, inputs.groups, has_moments, True)
    y, *actual, where = gpu.step(*args)
    _, *expected, _ = cpu.step(*args)
    assert_equal(actual, expected)
    assert len(y) == (len(inputs.x) if has_moments else 0)
    assert where.dtype == torch.uint8
    assert int(where.max()) <= 3


def test_moments_of_many_parts_are_those_of_the_whole_far_from_zero() -> None:
    inputs = Inputs((1, 2, 3, 30, 5, 6))
    y = channels_last(inputs.y * torch.arange(1, 31, device=DEVICE)[:, None, None, None] + 1e4)
    mean, var = gpu.pooling.pool(y, inputs.scale, True)[2].unbind(1)
    torch.testing.assert_close(mean, y.mean((0, 2, 3)), rtol=1e-13, atol=0)
    torch.testing.assert_close(var, y.var((0, 2, 3), correction=0), rtol=1e-9, atol=0)


def test_sums_over_many_parts() -> None:
    inputs = Inputs((1, 2, 3, 30, 5, 6))
    moments, g = moments_of(inputs), inputs.like(inputs.y)
    rectified = Rectified(
        cpu.rectify(inputs.y, inputs.scale, inputs.scale, moments), inputs.y, inputs.scale, moments
    )
    gradients = cpu.rectify_grad(g, rectified)
    assert_equal(gpu.rectify_grad(g, rectified), gradients)
    moved = [inputs.like(one) for one in (inputs.y, inputs.scale, inputs.scale, moments)]
    mine, theirs = (way.rectify_grad_grad(moved, Passed(g, *gradients[1:3]), rectified) for way in (gpu, cpu))
    assert_equal(mine, theirs)


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program do more: the interpreter takes its time for each."""
    if DEVICE == "cpu":
        monkeypatch.setattr(rows, "ROWS", 512)
        monkeypatch.setattr(rows, "WINDOWS", 256)
        original = convolutions.blocks
        monkeypatch.setattr(
            convolutions, "blocks", lambda *n: original(*n)._replace(BLOCK_M=512, BLOCK_K=128)
        )


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("is_every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_step(inputs: Inputs, places: tuple[Saved, Saved], is_every: bool) -> None:
    """Of all that a step may return, moved in each way in turn, or of each moved in every way."""
    pooled, moments = inputs.like(places[0].where), inputs.maybe(places[0].moments)
    weight, x = inputs.like(inputs.weight), inputs.like(inputs.x)
    ways = itertools.cycle([(weight, x), (weight, None), (None, x)])
    for g_y, g_pooled, g_moments in itertools.product(inputs.maybe(inputs.y), inputs.maybe(pooled), moments):
        gradients = Gradients(g_y, g_pooled, g_moments)
        if all(one is None for one in gradients):
            continue
        for needs_x in (True, False) if g_pooled is not None else (True,):
            routes = [
                (way, saved._replace(needs_x=needs_x)) for way, saved in zip((gpu, cpu), places, strict=True)
            ]
            mine, theirs = (way.step_grad(gradients, saved) for way, saved in routes)
            assert_equal(mine, theirs)
            for moved in itertools.islice(ways, 3 if is_every else 1):
                mine, theirs = (way.step_grad_grad(*moved, gradients, saved) for way, saved in routes)
                assert_equal(mine, theirs)


def moments_of(inputs: Inputs) -> Tensor:
    return torch.stack([inputs.like(inputs.scale), inputs.like(inputs.scale).square()], 1)


def test_images_may_lie_in_another_way(inputs: Inputs, places: tuple[Saved, Saved]) -> None:
    def lying(tree: Any) -> Any:
        return tree_map(lambda leaf: leaf.contiguous() if isinstance(leaf, Tensor) else leaf, tree)

    saved = places[0]
    actual, expected = (
        gpu.pooling.pool(way(inputs.y), inputs.scale, True) for way in (Tensor.contiguous, channels_last)
    )
    assert_equal(actual, expected)
    gradients = Gradients(inputs.like(inputs.y), inputs.like(saved.where), inputs.like(saved.moments))
    moved = inputs.like(inputs.weight), inputs.like(inputs.x)
    assert_equal(gpu.step_grad(lying(gradients), lying(saved)), gpu.step_grad(gradients, saved))
    assert_equal(
        gpu.step_grad_grad(*lying(moved), lying(gradients), lying(saved)),
        gpu.step_grad_grad(*moved, gradients, saved),
    )
    rectified = Rectified(inputs.y.relu(), inputs.y, inputs.scale, moments_of(inputs))
    g = inputs.like(inputs.y)
    assert_equal(
        gpu.rectify_grad(lying(g), lying(rectified)),
        gpu.rectify_grad(channels_last(g), Rectified(*map(channels_last, rectified[:2]), *rectified[2:])),
    )


def test_torchs_own_convolutions_serve_however_their_results_lie(
    inputs: Inputs, places: tuple[Saved, Saved], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (inputs.x, inputs.weight, inputs.scale, inputs.groups, True, True)
    saved = places[0]
    gradients = Gradients(inputs.like(inputs.y), inputs.like(saved.where), inputs.like(saved.moments))
    moved = inputs.like(inputs.weight), inputs.like(inputs.x)

    def results() -> list[Any]:
        every = gpu.step(*args), gpu.step_grad(gradients, saved)
        return [*every, gpu.step_grad_grad(*moved, gradients, saved)]

    expected = results()
    for name in ("convolve", "correlate"):
        torchs = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *inputs, torchs=torchs: torchs(*inputs).contiguous())
    monkeypatch.setattr(convolutions, "_is_ours", lambda x: False)
    for mine, theirs in zip(results(), expected, strict=True):
        assert_equal(mine, theirs)


def test_rectify_and_its_gradients(inputs: Inputs) -> None:
    x, scale = inputs.y, inputs.scale
    shift, moments = inputs.like(scale), moments_of(inputs)
    images, g = cpu.rectify(x, scale, shift, moments), inputs.like(x)
    assert_equal([gpu.rectify(x, scale, shift, moments)], [images])
    rectified = Rectified(images, x, scale, moments)
    gradients = cpu.rectify_grad(g, rectified)
    assert_equal(gpu.rectify_grad(g, rectified), gradients)
    passed = Passed(g, *gradients[1:3])
    for moved in itertools.product(*map(inputs.maybe, (x, scale, shift, moments))):
        if any(one is not None for one in moved):
            mine, theirs = (way.rectify_grad_grad(moved, passed, rectified) for way in (gpu, cpu))
            assert_equal(mine, theirs)


def test_what_is_not_a_number_stays_so() -> None:
    inputs = Inputs((1, 2, 3, 1, 4, 4))
    inputs.y[0, 0, 1, 1] = torch.nan
    pooled, *_ = gpu.pooling.pool(channels_last(inputs.y), inputs.scale, False)
    assert bool(pooled[0, 0, 0, 0].isnan())
    assert int(pooled.isnan().sum()) == 1
    rectified = gpu.rectify(inputs.y, inputs.scale, inputs.scale, moments_of(inputs))
    assert int(rectified.isnan().sum()) == 1


def test_of_pixels_that_tie_the_first_is_kept() -> None:
    y = torch.ones_like(Inputs((1, 2, 3, 1, 4, 4)).y)
    for scale in (y[0, :, 0, 0], -y[0, :, 0, 0]):
        assert not gpu.pooling.pool(y, scale, False)[1].any()


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(
    ("order", "uses_moments"),
    [(2, True), *(pytest.param(order, False, marks=pytest.mark.slow) for order in (1, 2))],
)
def test_meta_gradients_by_kernels_are_those_by_blocks(
    order: int, uses_moments: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, theta, tasks = problem(shape=(1, 16, 17))
    theta, tasks = trees.map(lambda leaf: leaf.to(DEVICE), theta), [leaf.to(DEVICE) for leaf in tasks]
    loss = maml_loss(partial(nets.apply, net), uses_moments, order)
    both = vmap(grad(loss, argnums=(0, 1, 3)), in_dims=(None, 0, 0, 0, 0))
    gradients = []
    for way in (cpu, gpu):
        monkeypatch.setitem(operators.WAYS, DEVICE.upper(), lambda way=way: way)
        gradients.append(dict(zip("tsq", both(theta, *tasks), strict=True)))
    assert_same(gradients[1], gradients[0], **EXACT)
    # And the kernels did it: their places of pixels are told in another type.
    x, weight = torch.rand(1, 2, 4, 4, device=DEVICE), torch.rand(3, 2, 3, 3, device=DEVICE)
    assert torch.ops.metabench.step(x, weight, weight[:, 0, 0, 0], 1, False, False)[3].dtype == torch.uint8
