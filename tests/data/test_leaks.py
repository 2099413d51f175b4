"""No image of a test class is ever in training, and none of a query in its support: over drawn tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metabench import data
from metabench.core import SemiSupport, Split, Splits, Task, seeds
from metabench.core.config import TaskConfig
from metabench.data.reading.splits import make_splits
from metabench.data.sets import omniglot
from metabench.data.tasks import frozen, sampling

PARTS = ("meta_train", "meta_validation", "meta_test")
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"way": 5, "shot": 2},
    "of a range": {"way": {"low": 2, "high": 5}, "shot": {"low": 1, "high": 3}},
    "unbalanced": {"way": 3, "shot": 2, "most_shots": 4},
    "with distractors": {"way": 3, "shot": 1, "unlabelled": 2, "distractors": 2},
    "within a domain": {"way": 3, "shot": 2, "domains": "within"},
    "across domains": {"way": 3, "shot": 2, "domains": "across", "unlabelled": 1, "distractors": 1},
}
N_CLASSES, N_EXAMPLES, N_QUERY = 8, 9, 3
N_TASKS = 200


def numbered() -> Splits:
    """Make three splits of two domains with the same class names, where no two images are alike."""
    size = 2 * N_CLASSES * N_EXAMPLES
    parts = []
    for number in range(len(PARTS)):
        ids = torch.arange(number * size, (number + 1) * size).view(2 * N_CLASSES, N_EXAMPLES, 1, 1, 1)
        images = torch.cat([ids // 256, ids % 256], 4).to(torch.uint8)  # [class, example, 1, 1, 2]
        names = [f"{domain}/{number}-{row}" for domain in "ab" for row in range(N_CLASSES)]
        parts.append(Split(images, tuple(names), tuple(name[0] for name in names)))
    return make_splits("numbered", *parts)


def tasks(splits: Splits, part: str, kind: str) -> Iterator[Task]:
    """Draw tasks as meta-training does, then those that are frozen."""
    split: Split = getattr(splits, part)
    task = TaskConfig(dataset="glyphs", query=N_QUERY, test_query=N_QUERY, **KINDS[kind])
    generator, source = seeds.generator("leaks", part, kind), sampling.pool(split, task)
    for shape, positions in sampling.shapes(task, task.query, N_TASKS, generator):
        yield frozen.gather(split.images, sampling.sample(generator, source, shape, len(positions)), shape)
    for group in frozen.frozen(splits, part, task, N_TASKS // 10, "search").groups:  # type: ignore[arg-type]
        yield frozen.gather(split.images, group.indices, group.shape)


def ids(images: Tensor) -> Tensor:
    """Return the number of each image, [T, n]."""
    high, low = (255 * images).round().long()[..., 0, 0, :].unbind(-1)
    return 256 * high + low


@pytest.mark.parametrize("kind", KINDS)
def test_over_drawn_tasks_no_image_is_on_both_sides_and_no_split_sees_another_s(kind: str) -> None:
    splits = numbered()
    seen: dict[str, set[int]] = {}
    for part in PARTS:
        seen[part] = set()
        for task in tasks(splits, part, kind):
            halves = [ids(task.support.x), ids(task.query.x)]
            if isinstance(task.support, SemiSupport):
                halves.append(ids(task.support.unlabelled))
            together = torch.cat(halves, 1)
            assert all(len(set(row)) == len(row) for row in together.tolist())
            seen[part] |= set(together.flatten().tolist())
        size = 2 * N_CLASSES * N_EXAMPLES
        first = PARTS.index(part) * size
        assert seen[part] <= set(range(first, first + size))
        assert len(seen[part]) > 0.9 * size, "or the law says little"


def upright(images: Tensor) -> set[bytes]:
    """Return the images of [class, example, C, H, W], each in the one of its four turns that sorts first."""
    turns = [images.rot90(quarters, (-2, -1)).contiguous().flatten(2).flatten(0, 1) for quarters in range(4)]
    rows = [[bytes(row) for row in turn.numpy()] for turn in turns]
    return {min(four) for four in zip(*rows, strict=True)}


def bases(names: tuple[str, ...]) -> set[str]:
    """Return the names of classes without their turns."""
    return {name.removesuffix("/90").removesuffix("/180").removesuffix("/270") for name in names}


def leaked(train: Split, test: Split) -> tuple[int, int]:
    """Count the classes and the images of a test split that are in training, upright or turned."""
    classes = bases(train.classes) & bases(test.classes)
    return len(classes), len(upright(train.images) & upright(test.images))


@pytest.mark.parametrize("split", list(omniglot.CLASSES))
def test_no_character_of_omniglot_is_in_two_splits_also_turned(split: str, data_root: Path) -> None:
    if not data.get("omniglot").is_available(data_root):
        pytest.skip(f"no Omniglot under {data_root}")
    splits = data.load(TaskConfig(dataset="omniglot", split=split), data_root)
    for part in (splits.meta_validation, splits.meta_test):
        assert leaked(splits.meta_train, part) == (0, 0)
    assert leaked(splits.meta_validation, splits.meta_test) == (0, 0)


@pytest.mark.parametrize("split", ["cloudera", "meta_dataset"])
def test_no_drawing_of_quick_draw_is_in_two_splits(split: str, data_root: Path) -> None:
    if not data.get("quickdraw").is_available(data_root):
        pytest.skip(f"no Quick, Draw! under {data_root}")
    task = TaskConfig(dataset="quickdraw", split=split, options={"examples_per_class": 20})
    splits = data.load(task, data_root)
    assert leaked(splits.meta_train, splits.meta_test) == (0, 0)


def test_characters_shuffled_together_with_their_turns_are_found_to_leak(data_root: Path) -> None:
    if not data.get("omniglot").is_available(data_root):
        pytest.skip(f"no Omniglot under {data_root}")
    train = data.load(TaskConfig(dataset="omniglot"), data_root).meta_train  # each character in four turns
    order = list(range(len(train.classes)))
    random.Random(0).shuffle(order)
    cut = [
        Split(train.images[rows], tuple(train.classes[row] for row in rows), ())
        for rows in (order[:3000], order[3000:])
    ]
    n_classes, n_images = leaked(*cut)
    assert n_classes > 500
    assert n_images >= 20 * n_classes * 0.99
