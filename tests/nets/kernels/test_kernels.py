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


class Given:
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


def assert_equal(found: Any, expected: Any) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.fixture(params=SIZES, ids=str)
def given(request: pytest.FixtureRequest) -> Given:
    return Given(request.param)


@pytest.fixture
def places(given: Given) -> tuple[Saved, Saved]:
    """Return what a step saves for each route, which tell a pixel's place in different ways."""
    args = (given.x, given.weight, given.scale, given.groups, True, True)
    y, _, moments, where = gpu.step(*args)
    saved = Saved(given.x, given.weight, y, moments, where, given.groups, True)
    return saved, saved._replace(where=cpu.step(*args)[3])


def test_convolutions(given: Given) -> None:
    x, weight, y, groups = given.x, given.weight, given.y, given.groups
    forward = kernels.convolve(x, weight, groups)
    back = kernels.convolve(y, kernels.flip(weight, groups), groups)
    assert_equal([convolutions.convolve(x, weight, groups)], [forward])
    onto = y.clone(memory_format=torch.channels_last)
    assert_equal([convolutions.convolve(x, weight, groups, onto=onto)], [forward + y])
    assert_equal([convolutions.convolve(y, weight, groups, is_back=True)], [back])
    assert_equal([convolutions.correlate(x, y, groups)], [kernels.correlate(x, y, groups)])


def test_correlation_is_the_same_however_its_sum_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Given((2, 3, 4, 9, 2, 3))
    found = []
    for fewest in (1 << 30, 64, 1):
        monkeypatch.setattr(convolutions, "FEWEST", fewest)
        found.append(convolutions.correlate(given.x, given.y, given.groups))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], **EXACT)


@pytest.mark.parametrize("has_moments", [True, False])
def test_step(given: Given, has_moments: bool) -> None:
    args = (given.x, given.weight, given.scale, given.groups, has_moments, True)
    y, *found, where = gpu.step(*args)
    _, *expected, _ = cpu.step(*args)
    assert_equal(found, expected)
    assert len(y) == (len(given.x) if has_moments else 0)
    assert where.dtype == torch.uint8
    assert int(where.max()) <= 3


def test_moments_of_many_parts_are_those_of_the_whole_far_from_zero() -> None:
    given = Given((1, 2, 3, 30, 5, 6))
    y = channels_last(given.y * torch.arange(1, 31, device=DEVICE)[:, None, None, None] + 1e4)
    mean, var = gpu.pooling.pool(y, given.scale, True)[2].unbind(1)
    torch.testing.assert_close(mean, y.mean((0, 2, 3)), rtol=1e-13, atol=0)
    torch.testing.assert_close(var, y.var((0, 2, 3), correction=0), rtol=1e-9, atol=0)


def test_sums_over_many_parts() -> None:
    given = Given((1, 2, 3, 30, 5, 6))
    moments, g = moments_of(given), given.like(given.y)
    rectified = Rectified(
        cpu.rectify(given.y, given.scale, given.scale, moments), given.y, given.scale, moments
    )
    found = cpu.rectify_grad(g, rectified)
    assert_equal(gpu.rectify_grad(g, rectified), found)
    moved = [given.like(one) for one in (given.y, given.scale, given.scale, moments)]
    mine, theirs = (way.rectify_grad_grad(moved, Passed(g, *found[1:3]), rectified) for way in (gpu, cpu))
    assert_equal(mine, theirs)


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program do more: the interpreter takes its time for each."""
    if DEVICE == "cpu":
        monkeypatch.setattr(rows, "ROWS", 512)
        monkeypatch.setattr(rows, "WINDOWS", 256)
        own = convolutions.blocks
        monkeypatch.setattr(convolutions, "blocks", lambda *n: own(*n)._replace(BLOCK_M=512, BLOCK_K=128))


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("is_every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_step(given: Given, places: tuple[Saved, Saved], is_every: bool) -> None:
    """Of all that a step may return, moved in each way in turn, or of each moved in every way."""
    pooled, moments = given.like(places[0].where), given.maybe(places[0].moments)
    weight, x = given.like(given.weight), given.like(given.x)
    ways = itertools.cycle([(weight, x), (weight, None), (None, x)])
    for g_y, g_pooled, g_moments in itertools.product(given.maybe(given.y), given.maybe(pooled), moments):
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


def moments_of(given: Given) -> Tensor:
    return torch.stack([given.like(given.scale), given.like(given.scale).square()], 1)


def test_images_may_lie_in_another_way(given: Given, places: tuple[Saved, Saved]) -> None:
    def lying(tree: Any) -> Any:
        return tree_map(lambda leaf: leaf.contiguous() if isinstance(leaf, Tensor) else leaf, tree)

    saved = places[0]
    found, expected = (
        gpu.pooling.pool(way(given.y), given.scale, True) for way in (Tensor.contiguous, channels_last)
    )
    assert_equal(found, expected)
    gradients = Gradients(given.like(given.y), given.like(saved.where), given.like(saved.moments))
    moved = given.like(given.weight), given.like(given.x)
    assert_equal(gpu.step_grad(lying(gradients), lying(saved)), gpu.step_grad(gradients, saved))
    assert_equal(
        gpu.step_grad_grad(*lying(moved), lying(gradients), lying(saved)),
        gpu.step_grad_grad(*moved, gradients, saved),
    )
    rectified = Rectified(given.y.relu(), given.y, given.scale, moments_of(given))
    g = given.like(given.y)
    assert_equal(
        gpu.rectify_grad(lying(g), lying(rectified)),
        gpu.rectify_grad(channels_last(g), Rectified(*map(channels_last, rectified[:2]), *rectified[2:])),
    )


def test_torchs_own_convolutions_serve_however_their_results_lie(
    given: Given, places: tuple[Saved, Saved], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (given.x, given.weight, given.scale, given.groups, True, True)
    saved = places[0]
    gradients = Gradients(given.like(given.y), given.like(saved.where), given.like(saved.moments))
    moved = given.like(given.weight), given.like(given.x)

    def found() -> list[Any]:
        every = gpu.step(*args), gpu.step_grad(gradients, saved)
        return [*every, gpu.step_grad_grad(*moved, gradients, saved)]

    expected = found()
    for name in ("convolve", "correlate"):
        torchs = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *given, torchs=torchs: torchs(*given).contiguous())
    monkeypatch.setattr(convolutions, "_is_ours", lambda x: False)
    for mine, theirs in zip(found(), expected, strict=True):
        assert_equal(mine, theirs)


def test_rectify_and_its_gradients(given: Given) -> None:
    x, scale = given.y, given.scale
    shift, moments = given.like(scale), moments_of(given)
    images, g = cpu.rectify(x, scale, shift, moments), given.like(x)
    assert_equal([gpu.rectify(x, scale, shift, moments)], [images])
    rectified = Rectified(images, x, scale, moments)
    found = cpu.rectify_grad(g, rectified)
    assert_equal(gpu.rectify_grad(g, rectified), found)
    passed = Passed(g, *found[1:3])
    for moved in itertools.product(*map(given.maybe, (x, scale, shift, moments))):
        if any(one is not None for one in moved):
            mine, theirs = (way.rectify_grad_grad(moved, passed, rectified) for way in (gpu, cpu))
            assert_equal(mine, theirs)


def test_what_is_not_a_number_stays_so() -> None:
    given = Given((1, 2, 3, 1, 4, 4))
    given.y[0, 0, 1, 1] = torch.nan
    pooled, *_ = gpu.pooling.pool(channels_last(given.y), given.scale, False)
    assert bool(pooled[0, 0, 0, 0].isnan())
    assert int(pooled.isnan().sum()) == 1
    rectified = gpu.rectify(given.y, given.scale, given.scale, moments_of(given))
    assert int(rectified.isnan().sum()) == 1


def test_of_pixels_that_tie_the_first_is_kept() -> None:
    y = torch.ones_like(Given((1, 2, 3, 1, 4, 4)).y)
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
    found = []
    for way in (cpu, gpu):
        monkeypatch.setitem(operators.WAYS, DEVICE.upper(), lambda way=way: way)
        found.append(dict(zip("tsq", both(theta, *tasks), strict=True)))
    assert_same(found[1], found[0], **EXACT)
    # And the kernels did it: their places of pixels are told in another type.
    x, weight = torch.rand(1, 2, 4, 4, device=DEVICE), torch.rand(3, 2, 3, 3, device=DEVICE)
    assert torch.ops.metabench.step(x, weight, weight[:, 0, 0, 0], 1, False, False)[3].dtype == torch.uint8
