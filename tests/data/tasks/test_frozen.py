"""Tasks are well formed, never share an example between support and query, and frozen ones never change."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metabench.core import Split, Splits, Task, seeds
from metabench.core.config import Between
from metabench.data.tasks import frozen as episodes
from metabench.data.tasks import sampling
from metabench.data.tasks.frozen import FrozenTasks
from metabench.data.tasks.sampling import Indices, Shape
from metabench.training import loop
from tests.support import small


def sample(
    generator: torch.Generator, shape: Shape, n_tasks: int, counts: torch.Tensor | None = None
) -> Indices:
    n_classes = 6 if counts is None else len(counts)
    images = torch.zeros(n_classes, 6, 1, 1, 1, dtype=torch.uint8)
    split = Split(images, tuple(map(str, range(n_classes))), ("one",) * n_classes, counts)
    return sampling.sample(generator, sampling.pool(split, small.TASK), shape, n_tasks)


@settings(max_examples=30)
@given(way=st.integers(2, 6), shot=st.integers(1, 3), query=st.integers(1, 3), n_tasks=st.integers(1, 5))
def test_a_task_has_distinct_classes_and_distinct_examples(
    way: int, shot: int, query: int, n_tasks: int
) -> None:
    indices = sample(seeds.generator(way, shot), Shape(way, shot, query), n_tasks)
    assert indices.classes.shape == (n_tasks, way)
    assert indices.examples.shape == (n_tasks, way, shot + query)
    assert all(len(set(row.tolist())) == way for row in indices.classes)
    assert all(len(set(row.tolist())) == shot + query for task in indices.examples for row in task)


def test_gathered_images_are_the_indexed_ones_scaled_to_one() -> None:
    images = small.splits().meta_train.images
    shape = Shape(3, 2, 1)
    indices = sample(seeds.generator("gather"), shape, 4)
    task = episodes.gather(images, indices, shape)
    assert task.support.x.shape == (4, 6, 1, 16, 16)
    assert task.support.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 4
    for row, (label, shot) in enumerate((label, shot) for label in range(3) for shot in range(2)):
        drawn = images[indices.classes[1, label], indices.examples[1, label, shot]]
        assert torch.equal(task.support.x[1, row], drawn / 255)
    drawn = images[indices.classes[1, 2], indices.examples[1, 2, 2]]
    assert torch.equal(task.query.x[1, 2], drawn / 255)


def test_every_class_and_example_is_drawn_equally_often() -> None:
    indices = sample(seeds.generator("uniform"), Shape(3, 1, 1), 4000)
    counts = torch.bincount(indices.classes.flatten(), minlength=6) / 12000
    # a share of 1/6 over 12,000 draws has a standard deviation of 0.0034
    assert float((counts - 1 / 6).abs().max()) < 0.014
    counts = torch.bincount(indices.examples.flatten(), minlength=6) / 24000
    assert float((counts - 1 / 6).abs().max()) < 0.010


@settings(max_examples=30)
@given(counts=st.lists(st.integers(3, 6), min_size=4, max_size=8), seed=st.integers(0, 100))
def test_where_classes_differ_in_size_only_examples_that_exist_are_drawn(
    counts: list[int], seed: int
) -> None:
    sizes = torch.tensor(counts)
    indices = sample(seeds.generator(seed), Shape(4, 1, 2), 20, sizes)
    assert (indices.examples < sizes[indices.classes][..., None]).all()
    assert all(len(set(row.tolist())) == 3 for task in indices.examples for row in task)


def test_counts_that_fill_the_table_change_no_draw() -> None:
    plain = sample(seeds.generator("counts"), Shape(3, 1, 2), 50)
    counted = sample(seeds.generator("counts"), Shape(3, 1, 2), 50, torch.full((6,), 6))
    assert torch.equal(plain.classes, counted.classes)
    assert torch.equal(plain.examples, counted.examples)


def test_every_example_of_a_small_class_is_drawn_equally_often() -> None:
    indices = sample(seeds.generator("uniform"), Shape(2, 1, 1), 3000, torch.tensor([3, 6]))
    drawn = indices.examples[indices.classes == 0]
    counts = torch.bincount(drawn.flatten(), minlength=6) / 6000
    # a share of 1/3 over 6,000 draws has a standard deviation of at most 0.0061
    assert float((counts[:3] - 1 / 3).abs().max()) < 0.025
    assert not counts[3:].any()


def test_training_and_frozen_tasks_draw_only_examples_that_exist() -> None:
    parts, counts = [], torch.tensor([6, 6, 3, 3, 4, 5])
    splits = small.splits()
    for part in (splits.meta_train, splits.meta_validation, splits.meta_test):
        is_missing = torch.arange(6) >= counts[:, None]
        images = part.images.masked_fill(is_missing[..., None, None, None], 0)
        parts.append(part._replace(images=images, counts=counts))
    splits = Splits("small", *parts, fingerprint="0" * 64)
    frozen = episodes.frozen(splits, "meta_test", small.TASK.model_copy(update={"test_query": 2}), 30, "test")
    indices = frozen.groups[0].indices
    assert (indices.examples < counts[indices.classes][..., None]).all()
    drawn = []

    def gathered(images: torch.Tensor, indices: Indices, shape: Shape) -> Task:
        drawn.append(indices)
        return episodes.gather(images, indices, shape)

    config = small.config()
    learner = loop.build(config, splits)
    source = sampling.pool(splits.meta_train, config.task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "frozen", SimpleNamespace(gather=gathered))
        loop.meta_step(config, learner, source, loop.start(config, learner), 30)
    assert (drawn[0].examples < counts[drawn[0].classes][..., None]).all()


def test_counts_change_the_hash_of_frozen_tasks() -> None:
    splits = small.splits()
    counted = splits.meta_validation._replace(counts=torch.full((6,), 6))
    assert frozen_hash() != frozen_hash(splits=splits._replace(meta_validation=counted))


def frozen_hash(n_tasks: int = 20, pool: str = "search", splits: Splits | None = None) -> str:
    return episodes.frozen(splits or small.splits(), "meta_validation", small.TASK, n_tasks, pool).hash  # type: ignore[arg-type]


def test_frozen_tasks_are_the_same_in_another_process() -> None:
    code = "from tests.data.tasks.test_frozen import frozen_hash; print(frozen_hash())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == frozen_hash()


def test_asking_for_more_frozen_tasks_keeps_the_first_ones() -> None:
    few = episodes.frozen(small.splits(), "meta_test", small.TASK, 5, "test").groups[0].indices
    many = episodes.frozen(small.splits(), "meta_test", small.TASK, 9, "test").groups[0].indices
    assert torch.equal(few.classes, many.classes[:5])
    assert torch.equal(few.examples, many.examples[:5])


def test_pools_images_and_number_of_tasks_change_the_hash() -> None:
    splits = small.splits()
    images = splits.meta_validation.images.clone()
    images[0, 0, 0, 0, 0] += 1
    touched = splits._replace(meta_validation=splits.meta_validation._replace(images=images))
    hashes = {frozen_hash(), frozen_hash(pool="confirm"), frozen_hash(21), frozen_hash(splits=touched)}
    assert len(hashes) == 4


def test_the_classes_of_tasks_are_listed_in_their_order_with_those_of_their_queries() -> None:
    task = small.TASK.model_copy(update={"way": Between(low=2, high=4)})
    tasks = episodes.frozen(small.splits(), "meta_test", task, 12, "test")
    assert len(tasks.groups) > 1
    classes = episodes.classes_of(tasks)
    for group in tasks.groups:
        for row, position in enumerate(group.positions.tolist()):
            assert classes[position] == group.indices.classes[row].tolist()
    others = torch.tensor([[5, 6]])
    indices = Indices(torch.tensor([[1, 2]]), torch.zeros(1, 2, 2), query_classes=others)
    one = FrozenTasks((episodes.Group(Shape(2, 1, 1), torch.tensor([0]), indices),), "")
    assert episodes.classes_of(one) == [[1, 2, 5, 6]]


@pytest.mark.parametrize(
    "special", [{}, {"most_shots": 3}, {"unlabelled": 1}, {"way": Between(low=2, high=4)}]
)
def test_pictures_are_numbered_as_tasks_show_them(special: dict[str, object]) -> None:
    task = small.TASK.model_copy(update={"shot": 1, "test_query": 2, **special})
    split = small.splits().meta_test
    counts = torch.tensor([6, 5, 6, 5, 6, 6])
    splits = small.splits()._replace(meta_test=split._replace(counts=counts))
    tasks = episodes.frozen(splits, "meta_test", task, 6, "test")
    queries, support, classes = episodes.pictures_of(tasks, splits.meta_test)
    assert classes.tolist() == [row for row, n in enumerate(counts) for _ in range(n)]
    pictures = torch.cat([split.images[row, :n] for row, n in enumerate(counts)]).float() / 255
    for group in tasks.groups:
        drawn = episodes.gather(split.images, group.indices, group.shape)
        shown = [drawn.support.x, getattr(drawn.support, "unlabelled", drawn.support.x[:, :0])]
        for place, position in enumerate(group.positions.tolist()):
            asked = drawn.query.x[place]
            assert torch.equal(pictures[queries[position, : len(asked)]], asked)
            seen = torch.cat([one[place] for one in shown]).flatten(1).sum(1).sort().values
            assert torch.allclose(pictures[support[position]].flatten(1).sum(1).sort().values, seen)
