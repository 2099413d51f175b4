"""Tasks are well formed, never share an example between support and query, and frozen ones never change."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabench import episodes, seeds
from metabench.core import Splits
from tests import small


@settings(max_examples=30, deadline=None)
@given(way=st.integers(2, 6), shot=st.integers(1, 3), query=st.integers(1, 3), n_tasks=st.integers(1, 5))
def test_a_task_has_distinct_classes_and_distinct_examples(
    way: int, shot: int, query: int, n_tasks: int
) -> None:
    indices = episodes.sample(seeds.generator(way, shot), 6, 6, way, shot, query, n_tasks)
    assert indices.classes.shape == (n_tasks, way)
    assert indices.examples.shape == (n_tasks, way, shot + query)
    assert all(len(set(row.tolist())) == way for row in indices.classes)
    assert all(len(set(row.tolist())) == shot + query for task in indices.examples for row in task)


def test_gathered_images_are_the_indexed_ones_scaled_to_one() -> None:
    images = small.splits().meta_train.images
    indices = episodes.sample(seeds.generator("gather"), 6, 6, 3, 2, 1, 4)
    task = episodes.gather(images, indices, 2)
    assert task.support.x.shape == (4, 6, 1, 16, 16)
    assert task.support.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    for row, (label, shot) in enumerate((label, shot) for label in range(3) for shot in range(2)):
        drawn = images[indices.classes[1, label], indices.examples[1, label, shot]]
        assert torch.equal(task.support.x[1, row], drawn / 255)
    drawn = images[indices.classes[1, 2], indices.examples[1, 2, 2]]
    assert torch.equal(task.query.x[1, 2], drawn / 255)


def test_every_class_and_example_is_drawn_equally_often() -> None:
    indices = episodes.sample(seeds.generator("uniform"), 6, 6, 3, 1, 1, 4000)
    counts = torch.bincount(indices.classes.flatten(), minlength=6) / 12000
    # a share of 1/6 over 12,000 draws has a standard deviation of 0.0034
    assert float((counts - 1 / 6).abs().max()) < 0.014
    counts = torch.bincount(indices.examples.flatten(), minlength=6) / 24000
    assert float((counts - 1 / 6).abs().max()) < 0.010


def frozen_hash(n_tasks: int = 20, pool: str = "search", splits: Splits | None = None) -> str:
    return episodes.frozen(splits or small.splits(), "meta_validation", small.TASK, n_tasks, pool).hash  # type: ignore[arg-type]


def test_frozen_tasks_are_the_same_in_another_process() -> None:
    code = "from tests.test_episodes import frozen_hash; print(frozen_hash())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == frozen_hash()


def test_asking_for_more_frozen_tasks_keeps_the_first_ones() -> None:
    few = episodes.frozen(small.splits(), "meta_test", small.TASK, 5, "test").indices
    many = episodes.frozen(small.splits(), "meta_test", small.TASK, 9, "test").indices
    assert torch.equal(few.classes, many.classes[:5])
    assert torch.equal(few.examples, many.examples[:5])


def test_pools_images_and_number_of_tasks_change_the_hash() -> None:
    splits = small.splits()
    images = splits.meta_validation.images.clone()
    images[0, 0, 0, 0, 0] += 1
    touched = splits._replace(meta_validation=splits.meta_validation._replace(images=images))
    hashes = {frozen_hash(), frozen_hash(pool="confirm"), frozen_hash(21), frozen_hash(splits=touched)}
    assert len(hashes) == 4
