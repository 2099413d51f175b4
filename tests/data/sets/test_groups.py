"""Tasks whose rows have labels and groups of their own: own tables, communities by state, Zafar's plane."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from metabench import data
from metabench.core import SPLITS, GroupedQuery, GroupedSupport, MetabenchError, Query, Splits, seeds
from metabench.core.config import TaskConfig
from metabench.data.sets import communities
from metabench.data.tasks import frozen, sampling

HAS_FILE = (Path(os.environ.get("METABENCH_DATA", "nowhere")) / communities.FILE).is_file()
OFFICIAL = pytest.mark.skipif(not HAS_FILE, reason=f"METABENCH_DATA has no {communities.FILE}")


def people(n_tasks: int = 12, n_rows: int = 12) -> pd.DataFrame:
    """Make a table of tasks: two inputs, a label and a group, each of both values in every task."""
    rng = np.random.default_rng(0)
    n = n_tasks * n_rows
    number = np.arange(n)
    return pd.DataFrame(
        {
            "age": rng.normal(size=n),
            "income": rng.normal(3, 2, n),
            "hired": np.where(number % 2, "yes", "no"),
            "sex": np.where(number // 2 % 3, "m", "f"),
            "place": np.repeat([f"place {i}" for i in range(n_tasks)], n_rows),
        }
    )


OPTIONS = {"label": "hired", "task": "place", "group": "sex", "protected": "f"}
TASK = {"way": 2, "shot": 5, "query": 4, "test_query": 4}


def load(frame: pd.DataFrame, folder: Path, **options: Any) -> Splits:
    path = folder / "people.csv"
    frame.to_csv(path, index=False)
    return data.load(TaskConfig(dataset="table", options={"path": str(path), **OPTIONS, **options}))


def draw(splits: Splits, part: str = "meta_train", n_tasks: int = 40, **changes: Any) -> tuple[Any, Any]:
    task = TaskConfig.model_validate({"dataset": splits.name, **TASK, **changes})
    split = getattr(splits, part)
    generator = seeds.generator("groups", part)
    ((shape, _),) = sampling.shapes(task, task.query, n_tasks, generator, split.n_columns)
    indices = sampling.sample(generator, sampling.pool(split, task), shape, n_tasks)
    return indices, frozen.gather(split.images, indices, shape)


def test_a_row_of_the_split_is_a_task_with_inputs_label_and_group(tmp_path: Path) -> None:
    frame = people()
    splits = load(frame, tmp_path, standardise=False)
    assert splits.kind == "classification"
    assert splits.rows is not None
    assert splits.rows.names == ("age", "income"), "the group is no input"
    for part in SPLITS:
        split = getattr(splits, part)
        assert (split.labels, split.has_group, split.n_columns) == (("no", "yes"), True, 2)
        for name, rows in zip(split.classes, split.images, strict=True):
            here = frame[frame.place == name]
            wanted = np.stack([here.age, here.income, here.hired == "yes", here.sex == "f"], axis=1)
            assert np.array_equal(rows.numpy(), wanted.astype(np.float32))
    assert frozen.input_shape(splits) == (2,)


def test_a_drawn_task_is_of_one_place_and_its_support_and_query_share_no_row(tmp_path: Path) -> None:
    splits = load(people(), tmp_path)
    indices, tasks = draw(splits)
    assert isinstance(tasks.support, GroupedSupport)
    assert isinstance(tasks.query, GroupedQuery)
    assert indices.classes.shape == (40, 1)
    assert (tasks.support.x.shape, tasks.query.x.shape) == ((40, 5, 2), (40, 4, 2))
    assert all(len({*rows}) == 9 for rows in indices.examples[:, 0].tolist())
    table = splits.meta_train.images[indices.classes[:, 0]]  # [T, R, 4]
    for rows, part in (
        (indices.examples[:, 0, :5], tasks.support),
        (indices.examples[:, 0, 5:], tasks.query),
    ):
        picked = table.gather(1, rows[..., None].expand(-1, -1, 4))
        assert torch.equal(picked[..., :2], part.x)
        assert torch.equal(picked[..., 2].long(), part.y)
        assert torch.equal(picked[..., 3].long(), part.group)
    assert torch.equal(tasks.classes, torch.tensor([0, 1]).expand(40, -1))


def test_every_support_set_has_a_row_of_each_label_and_is_otherwise_drawn_as_ever(tmp_path: Path) -> None:
    splits = load(people(12, 40), tmp_path)
    indices, tasks = draw(splits, n_tasks=400, shot=3)
    assert bool((tasks.support.y.sum(1) > 0).all() & (tasks.support.y.sum(1) < 3).all())
    generator = seeds.generator("groups", "meta_train")
    plain = splits.meta_train._replace(labels=(), has_group=False)
    shape = sampling.Shape(2, 3, 4, columns=2)
    task = TaskConfig.model_validate({"dataset": "people", **TASK})
    as_ever = sampling.sample(generator, sampling.pool(plain, task), shape, 400)
    both = [
        set(one) == set(other)
        for one, other in zip(
            as_ever.examples[:, 0, :3].tolist(), indices.examples[:, 0, :3].tolist(), strict=True
        )
    ]
    # Three rows are of one label in a quarter of all draws.
    assert sum(both) == pytest.approx(300, abs=40)


def test_rows_beyond_a_task_s_own_are_never_drawn(tmp_path: Path) -> None:
    frame = people(12, 30)
    ragged = frame.drop(index=[row for row in frame.index if row // 30 % 2 and row % 30 >= 11])
    splits = load(ragged, tmp_path)
    split = splits.meta_train
    assert split.counts is not None
    beyond = torch.arange(split.images.shape[1]) >= split.counts[:, None]
    images = split.images.masked_fill(beyond[..., None], torch.nan)
    _, tasks = draw(splits._replace(meta_train=split._replace(images=images)), n_tasks=200)
    assert bool(tasks.support.x.isfinite().all() & tasks.query.x.isfinite().all())


def test_inputs_are_standardised_by_meta_train_and_labels_and_groups_are_left_alone(tmp_path: Path) -> None:
    splits = load(people(), tmp_path)
    rows = splits.meta_train.images.flatten(0, 1)
    torch.testing.assert_close(rows[:, :2].mean(0), torch.zeros(2), atol=1e-6, rtol=0)  # of float32
    assert {*rows[:, 2].tolist()} == {*rows[:, 3].tolist()} == {0.0, 1.0}
    assert splits.meta_test.images[..., :2].flatten(0, 1).mean(0).abs().max() > 1e-3


def test_a_group_that_is_asked_for_as_an_input_is_one(tmp_path: Path) -> None:
    splits = load(people(), tmp_path, group_as_feature=True, standardise=False)
    assert splits.rows is not None
    assert splits.rows.names == ("age", "income", "sex")
    for part in SPLITS:
        images = getattr(splits, part).images
        assert torch.equal(images[..., 2], images[..., 4])


def test_frozen_tasks_are_the_same_again_from_a_file(tmp_path: Path) -> None:
    splits = load(people(), tmp_path)
    task = TaskConfig.model_validate({"dataset": "table", **TASK})
    tasks = frozen.frozen(splits, "meta_test", task, 6, "test")
    frozen.write(tmp_path / "tasks.safetensors", splits, "meta_test", task, "test", tasks)
    again = frozen.read(tmp_path / "tasks.safetensors", splits, "meta_test")
    drawn, same = (
        frozen.gather(splits.meta_test.images, one.groups[0].indices, one.groups[0].shape)
        for one in (tasks, again)
    )
    assert isinstance(same.query, GroupedQuery)
    assert all(map(torch.equal, drawn.query, same.query))
    assert all(map(torch.equal, drawn.support, same.support))


def test_without_groups_rows_have_labels_alone_and_any_number_of_them(tmp_path: Path) -> None:
    frame = people().assign(hired=lambda frame: frame.index % 3 + 8)
    splits = load(frame, tmp_path, group="", protected="")
    assert (splits.meta_test.labels, splits.meta_test.has_group) == (("8", "9", "10"), False)
    _, tasks = draw(splits, way=3)
    assert type(tasks.query) is Query
    assert {*tasks.query.y.flatten().tolist()} == {0, 1, 2}


def test_folds_test_each_task_once_and_train_on_the_others(tmp_path: Path) -> None:
    folds = [load(people(), tmp_path, folds=5, fold=k) for k in range(5)]
    tested = [name for one in folds for name in one.meta_test.classes]
    assert len(tested) == len({*tested}) == 10
    assert len({one.meta_validation.classes for one in folds}) == 1
    for one in folds:
        assert not {*one.meta_train.classes} & {*one.meta_test.classes, *one.meta_validation.classes}
    assert data.n_folds(TaskConfig(dataset="table", options={"folds": 5})) == 5


def test_tasks_in_which_a_gap_is_undefined_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = people()
    frame.loc[frame.place == "place 1", "sex"] = "m"
    frame.loc[(frame.place == "place 2") & (frame.hired == "yes"), "sex"] = "m"
    with caplog.at_level(logging.WARNING):
        load(frame, tmp_path)
    assert "group 'sex': one value only in 'place 1 (12 rows)'; gaps are undefined there" in caplog.text
    assert "no protected row of the wanted label in 'place 2 (12 rows)'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"protected": ""}, "group 'sex': 2 values ('f', 'm'); say which are protected, such as"),
        ({}, {"protected": "x"}, "protected='x': 'x' is no value of 'sex'; there are 'f', 'm'"),
        ({}, {"group": ""}, "protected='f': needs group"),
        ({}, {"task": ""}, "group='sex': needs label and task"),
        ({}, {"features": "age,sex"}, "features: 'sex' is the group (see group_as_feature); leave it out"),
        ({"hired": range(144)}, {}, "label 'hired': 144 values; fairness needs 2"),
        ({"hired": "yes"}, {}, "label 'hired': 1 values; fairness needs 2"),
        ({"hired": ["yes"] * 12 + ["no", "yes"] * 66}, {}, "not every label is in 'place 0'"),
        ({"sex": [None] + ["f", "m"] * 71 + ["m"]}, {}, "'sex' is missing in 1 of 144 rows"),
        ({}, {"folds": 3, "fold": 3}, "fold=3: must be < folds=3"),
    ],
)
def test_each_mistake_is_one_message(
    tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(MetabenchError) as caught:
        load(people().assign(**changes), tmp_path, **options)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"way": 5}, "way=5: every task of table/own has the labels no, yes; set way to 2"),
        ({"shot": 1}, "shot=1: is rows of a task here"),
        ({"domains": "within"}, "domains=within: an example of table/own has its own label"),
        ({"shot": 11, "test_query": 4}, "need 15 rows a task: meta_train of table/own has only 12"),
    ],
)
def test_a_task_that_does_not_fit_is_told_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    splits = load(people(), tmp_path)
    with pytest.raises(MetabenchError) as caught:
        data.check(TaskConfig.model_validate({"dataset": "table", **TASK, **changes}), splits)
    assert words in str(caught.value).splitlines()[0]


@OFFICIAL
def test_communities_are_what_is_known_of_them() -> None:
    splits = data.load(TaskConfig(dataset="communities"))
    parts = [getattr(splits, part) for part in SPLITS]
    counts = [int(count) for part in parts for count in part.counts]
    assert (len(counts), min(counts), max(counts)) == (30, 20, 278)
    rows = [images[:count] for part in parts for images, count in zip(part.images, part.counts, strict=True)]
    assert {len(one[0]) for one in rows} == {96 + 2}
    assert all(0.5 <= float(one[:, -2].mean()) <= 0.56 for one in rows), "half are at or below the median"
    shares = sorted(float(one[:, -1].mean()) for one in rows)
    assert (shares[0], shares[-1]) == (0, 1)
    whole = torch.cat(rows)
    rates = [float(whole[whole[:, -1] == group, -2].mean()) for group in (0, 1)]
    assert rates[1] < rates[0] - 0.15, "the groups' base rates differ, so that parity has a price"
    assert splits.rows is not None
    assert not any("race" in name.lower() for name in splits.rows.names)


@OFFICIAL
def test_columns_of_communities_may_be_dropped() -> None:
    fewer = data.load(TaskConfig(dataset="communities", options={"drop": "blackPerCap, whitePerCap"}))
    assert fewer.rows is not None
    assert len(fewer.rows.names) == 94
    with pytest.raises(MetabenchError, match="no column 'blackpercap'"):
        data.load(TaskConfig(dataset="communities", options={"drop": "blackpercap"}))


def test_communities_without_the_file_say_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METABENCH_DATA", raising=False)
    with pytest.raises(MetabenchError, match=r"communities_and_crime\.csv.*METABENCH_DATA is not set"):
        data.load(TaskConfig(dataset="communities"))


def test_the_plane_ties_the_group_to_the_outcome_by_its_angle() -> None:
    splits = data.load(TaskConfig(dataset="zafar", options={"tasks": 300, "people": 200}))
    images = splits.meta_train.images
    y, group = images[..., 2], images[..., 3]
    angle = torch.tensor([float(name.split(": ")[1][:-1]) for name in splits.meta_train.classes])
    gap = (y * (1 - group)).sum(1) / (1 - group).sum(1) - (y * group).sum(1) / group.sum(1)
    assert float(gap.mean()) > 0.2, "fewer of the protected have the outcome"
    assert float(gap[angle < 35].mean()) > float(gap[angle > 75].mean()) + 0.3, (
        "and the fewer the less it turns"
    )
    again = data.load(TaskConfig(dataset="zafar", options={"tasks": 300, "people": 200}))
    assert again.fingerprint == splits.fingerprint
