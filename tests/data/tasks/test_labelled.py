"""Meta-train whose examples have a label or none for good, and meta-test with other unlabelled images."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from metabench import data
from metabench.core import MetabenchError, SemiSupport
from metabench.core.config import TaskConfig, validated
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks
from metabench.data.tasks.sampling import Shape
from tests.data.tasks.test_sampling import draw, identity, one, table
from tests.support import small

SHARE = TaskConfig(dataset="small", labelled=0.25, unlabelled=4, distractors=2)
SHAPE = Shape(3, 1, 3, unlabelled=4, distractors=2)


def episodes(seed: int = 0, **changes: Any) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Return which examples have a label in some of many tasks, and which have none."""
    source = sampling.training_pool(table(**changes), SHARE, seed)
    _, tasks = draw(SHAPE, source, n_tasks=300)
    labelled, rest = set(), set()
    for index in range(300):
        task = one(tasks, index)
        labelled |= {*identity(task.support.x), *identity(task.query.x)}
        rest |= {*identity(task.support.unlabelled)}  # type: ignore[attr-defined]
    return labelled, rest


def test_an_example_has_a_label_in_every_task_or_in_none() -> None:
    labelled, rest = episodes()
    assert not labelled & rest
    assert len(labelled) == 12 * 5  # a quarter of 20, of every class
    assert len(rest) == 12 * 15
    again, _ = episodes()
    other, _ = episodes(seed=1)
    assert again == labelled != other


def test_of_classes_of_unequal_size_the_share_is_of_each() -> None:
    counts = torch.tensor([16, 20, 18] * 4)
    labelled, rest = episodes(counts=counts)
    assert not labelled & rest
    for number, count in enumerate(counts.tolist()):
        assert sum(one == number for one, _ in labelled) == round(count / 4)
        assert sum(one == number for one, _ in rest) == count - round(count / 4)
    assert all(example < counts[number] for number, example in labelled | rest)


def test_a_share_of_one_draws_what_was_drawn_before_there_were_shares() -> None:
    plain = TaskConfig(dataset="small", unlabelled=4, distractors=2)
    before, after = (
        draw(SHAPE, source)[0]
        for source in (sampling.pool(table(), plain), sampling.training_pool(table(), plain, 3))
    )
    pairs = zip(sampling.tensors(before).values(), sampling.tensors(after).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_across_domains_queries_too_are_of_examples_with_a_label() -> None:
    task = SHARE.model_copy(update={"domains": "across"})
    source = sampling.training_pool(table(n_classes=16, domains=2), task, 0)
    _, tasks = draw(SHAPE, source, n_tasks=100)
    assert source.labelled is not None
    for index in range(100):
        task_, beside = one(tasks, index), one(tasks, index).support
        for c, e in identity(task_.support.x) + identity(task_.query.x):
            assert source.labelled[c, e]
        assert isinstance(beside, SemiSupport)
        assert not any(source.labelled[c, e] for c, e in identity(beside.unlabelled))


def frozen_of(**changes: Any) -> FrozenTasks:
    return frozen.frozen(small.splits(), "meta_test", small.TASK.model_copy(update=changes), 4, "test")


def test_meta_test_has_its_own_unlabelled_images_and_all_its_labels() -> None:
    same = frozen_of(unlabelled=2, distractors=1)
    assert frozen_of(test_unlabelled=2, test_distractors=1, labelled=0.5).hash == same.hash
    assert frozen_of(unlabelled=1, test_unlabelled=2, test_distractors=1).hash == same.hash
    assert frozen_of(unlabelled=2, test_unlabelled=0, distractors=2, labelled=0.5).hash == frozen_of().hash
    assert len({same.hash, frozen_of().hash, frozen_of(unlabelled=2).hash}) == 3


def test_what_a_task_does_not_say_is_not_in_its_record() -> None:
    plain = TaskConfig(dataset="small").model_dump()
    assert not plain.keys() & {"labelled", "test_unlabelled", "test_distractors"}
    asked = TaskConfig(dataset="small", labelled=0.5, test_unlabelled=0)
    assert asked.model_dump().keys() - plain.keys() == {"labelled", "test_unlabelled"}
    assert TaskConfig.model_validate(json.loads(asked.model_dump_json())) == asked


def test_tasks_without_distractors_or_unlabelled_images_are_else_the_very_same() -> None:
    tasks = frozen_of(unlabelled=2, distractors=1)
    images = small.splits().meta_test.images
    whole, fewer, none = (
        frozen.gather(images, group.indices, group.shape)
        for (group,) in (
            tasks.groups,
            frozen.without(tasks, "distractors").groups,
            frozen.without(tasks, "unlabelled").groups,
        )
    )
    for part in (fewer, none):
        assert torch.equal(part.support.x, whole.support.x)
        assert torch.equal(part.query.x, whole.query.x)
    assert not isinstance(none.support, SemiSupport)
    of_classes = frozen.is_own(tasks.groups[0])
    assert of_classes.sum(1).tolist() == [6] * 4
    kept = whole.support.unlabelled[of_classes].view(4, 6, 1, 16, 16)  # type: ignore[attr-defined]
    assert torch.equal(fewer.support.unlabelled, kept)  # type: ignore[attr-defined]
    classes = tasks.groups[0].indices.classes
    shown = {image.numpy().tobytes() for row in classes for image in images[row].flatten(0, 1)}
    assert {(image * 255).round().to(torch.uint8).numpy().tobytes() for image in kept.flatten(0, 1)} <= shown


REFUSED = [
    ({"labelled": 1.5}, "labelled=1.5: should be less than or equal to 1"),
    ({"labelled": 0.0}, "labelled=0.0: should be greater than 0"),
    ({"test_distractors": 2}, "test_distractors=2: have unlabelled images only; set test_unlabelled"),
    ({"unlabelled": 2, "test_unlabelled": 0, "test_distractors": 2}, "test_distractors=2: have unlabelled"),
]


@pytest.mark.parametrize(("values", "text"), REFUSED, ids=[text.split(":")[0] for _, text in REFUSED])
def test_what_no_task_can_be_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        validated(TaskConfig, {"dataset": "small", **values})
    assert text in str(caught.value)


LACKING = [
    (
        {"labelled": 0.34},
        "labelled=0.34: small has 2 labelled examples a class; shot=1 and query=2 need 3; lower shot",
    ),
    (
        {"labelled": 0.5, "unlabelled": 4},
        "labelled=0.5: small has 3 examples a class without a label; unlabelled=4",
    ),
    (
        {"test_unlabelled": 3},
        "test_query=3 and test_unlabelled=3 need 7 examples a class: meta_validation of small",
    ),
    (
        {"unlabelled": 1, "test_distractors": 4},
        "way=3 and test_distractors=4: meta_validation of small has only 6",
    ),
    ({"unlabelled": 1, "distractors": 4}, "way=3 and distractors=4: meta_train of small has only 6 classes"),
]


@pytest.mark.parametrize(("values", "text"), LACKING, ids=[str(values) for values, _ in LACKING])
def test_what_the_data_have_too_few_of_is_said(values: dict[str, Any], text: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        data.check(small.TASK.model_copy(update=values), small.splits())
    assert text in str(caught.value)
