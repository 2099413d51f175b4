"""Augmentation: agreement with scipy's affine maps, what stays untouched, and where randomness comes from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from metabench import algorithms
from metabench.algorithms import finetune
from metabench.core import MetabenchError, Query, Support, Task, seeds
from metabench.core.config import AugmentConfig
from metabench.data.tasks import augment, sampling
from metabench.training import loop
from tests.support import small

STILL = AugmentConfig(rotate=0, scale=0, shear=0, shift=0)


def draw(
    n_tasks: int = 3, way: int = 4, shot: int = 2, query: int = 3, shape: tuple[int, ...] = (1, 8, 8)
) -> Task:
    generator = seeds.generator("augment test")

    def half(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(n_tasks, way * n, *shape, generator=generator, dtype=torch.float64)
        return x, torch.arange(way).repeat_interleave(n).expand(n_tasks, -1)

    return Task(Support(*half(shot)), Query(*half(query)), torch.arange(way).expand(n_tasks, -1))


def settings(**values: Any) -> Any:
    return algorithms.hparams("maml", values)


@pytest.mark.parametrize("shape", [(8, 8), (6, 9)])
def test_warp_agrees_with_scipy(shape: tuple[int, int]) -> None:
    generator = seeds.generator("warp")
    images = torch.rand(5, 2, *shape, generator=generator, dtype=torch.float64)
    config = AugmentConfig(flip=True, rotate=60, scale=0.4, shear=0.4, shift=0.2)
    moves, _ = augment.parameters(5, config, generator)
    ours = augment.warp(images, moves.double(), "zeros")
    half = np.array([shape[1], shape[0]]) / 2  # x before y
    for image, move, warped in zip(images, moves.double().numpy(), ours, strict=True):
        # p' = A p + t in pixels from the middle, A the same in both directions; scipy wants rows first
        back = np.linalg.inv(move[:, :2])
        shift = move[:, 2] * half
        swap = np.array([[0, 1], [1, 0]])
        middle = (np.array(shape) - 1) / 2
        matrix = swap @ back @ swap
        offset = middle - matrix @ (middle + shift[::-1])
        for channel, expected in zip(image, warped, strict=True):
            theirs = ndimage.affine_transform(
                channel.numpy(), matrix, offset, order=1, mode="grid-constant", cval=0
            )
            # Both interpolate linearly; what is left is rounding of float64.
            np.testing.assert_allclose(expected.numpy(), theirs, atol=1e-9)


def test_nothing_moves_where_all_limits_are_zero() -> None:
    x = draw().support.x
    assert augment.distort(x, STILL, seeds.generator("a")) is not x
    torch.testing.assert_close(augment.distort(x, STILL, seeds.generator("a")), x, rtol=0, atol=0)


def test_a_flip_mirrors_about_half_of_the_images_and_leaves_the_others() -> None:
    x = torch.rand(400, 1, 4, 4, generator=seeds.generator("flip"), dtype=torch.float64)
    flipped = augment.distort(x, STILL.model_copy(update={"flip": True}), seeds.generator("side"))
    is_same = (flipped - x).abs().amax((1, 2, 3)) < 1e-12
    is_mirrored = (flipped - x.flip(-1)).abs().amax((1, 2, 3)) < 1e-12
    assert bool((is_same ^ is_mirrored).all())
    assert 150 < int(is_mirrored.sum()) < 250  # 200 +- 5 standard deviations


def test_contrast_and_brightness_stay_within_their_limits() -> None:
    x = torch.rand(200, 3, 5, 5, generator=seeds.generator("light"), dtype=torch.float64) * 0.2 + 0.3
    brighter = augment.distort(x, STILL.model_copy(update={"brightness": 0.1}), seeds.generator("b"))
    ratio = brighter.mean((1, 2, 3)) / x.mean((1, 2, 3))
    assert math.exp(-0.1) <= ratio.min() < 0.95
    assert 1.05 < ratio.max() <= math.exp(0.1)
    steeper = augment.distort(x, STILL.model_copy(update={"contrast": 0.1}), seeds.generator("c"))
    torch.testing.assert_close(steeper.mean((1, 2, 3)), x.mean((1, 2, 3)))
    ratio = steeper.std((1, 2, 3)) / x.std((1, 2, 3))
    assert math.exp(-0.1) <= ratio.min() < 0.95
    assert 1.05 < ratio.max() <= math.exp(0.1)


@pytest.mark.parametrize(
    ("which", "changed"), [("none", ""), ("support", "s"), ("query", "q"), ("both", "sq")]
)
def test_only_the_named_half_is_distorted(which: str, changed: str) -> None:
    before = draw()
    after = augment.tasks(before, settings(augment=which), AugmentConfig(), seeds.generator("halves"))
    assert ("s" in changed) != torch.equal(after.support.x, before.support.x)
    assert ("q" in changed) != torch.equal(after.query.x, before.query.x)
    assert torch.equal(after.support.y, before.support.y)
    assert torch.equal(after.query.y, before.query.y)


def test_images_of_one_task_are_distorted_differently() -> None:
    image = torch.rand(1, 1, 8, 8, generator=seeds.generator("one"), dtype=torch.float64)
    distorted = augment.distort(image.expand(6, -1, -1, -1), AugmentConfig(), seeds.generator("many"))
    assert len({tuple(row.flatten().tolist()) for row in distorted}) == 6


def test_a_turned_class_is_turned_alike_in_support_and_query_and_all_turns_occur() -> None:
    before = draw(n_tasks=20)
    after = augment.tasks(before, settings(turn_classes=True), AugmentConfig(), seeds.generator("turns"))
    seen = set()
    for task in range(20):
        for label in range(4):
            turns = [
                [torch.equal(new[i], old[i].rot90(k, (-2, -1))) for i in range(len(y)) if y[i] == label]
                for k in range(4)
                for new, old, y in (
                    (after.support.x[task], before.support.x[task], before.support.y[task]),
                    (after.query.x[task], before.query.x[task], before.query.y[task]),
                )
            ]
            whole = [all(turns[2 * k]) and all(turns[2 * k + 1]) for k in range(4)]
            assert sum(whole) == 1
            seen.add(whole.index(True))
    assert seen == {0, 1, 2, 3}


def test_the_same_generator_gives_the_same_images_and_another_gives_others() -> None:
    x = draw().query.x
    first, again, other = (
        augment.distort(x, AugmentConfig(), seeds.generator("seeded", name)) for name in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parameters_do_not_depend_on_where_images_are(device: str) -> None:
    x = draw().query.x
    here = augment.distort(x, AugmentConfig(), seeds.generator("device"))
    there = augment.distort(x.to(device), AugmentConfig(), seeds.generator("device"))
    assert there.device.type == torch.device(device).type
    torch.testing.assert_close(there.cpu(), here)


def test_training_is_augmented_and_evaluation_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small.config(augment="both", turn_classes=True)
    splits = small.splits()
    whole, seen = augment.tasks, []

    def listening(drawn: Task, *rest: Any) -> Task:
        changed = whole(drawn, *rest)
        seen.append(not torch.equal(changed.query.x, drawn.query.x))
        return changed

    monkeypatch.setattr(augment, "tasks", listening)
    learner = loop.build(config, splits)
    loop.meta_step(
        config, learner, sampling.pool(splits.meta_train, config.task), loop.start(config, learner), 2
    )
    assert seen == [True]
    list(loop.train(small.config(), splits))
    assert seen == [True] + [False] * 6  # 24 tasks, four a step; none for meta-validation


def test_a_function_is_not_an_image_to_augment() -> None:
    with pytest.raises(MetabenchError, match="augment='query': only images"):
        loop.build(small.regression(augment="query"), small.sinusoids())


def test_copies_of_what_is_no_image_are_refused_before_training() -> None:
    problem = augment.problem(
        finetune.LinearSettings(support_copies=4), "classification", (8,), AugmentConfig()
    )
    assert problem == "support_copies=4: only images can be augmented; leave it out for features"


def test_images_that_are_not_square_are_not_turned() -> None:
    problem = augment.problem(settings(turn_classes=True), "classification", (1, 4, 6), AugmentConfig())
    assert problem is not None
    assert "square" in problem
