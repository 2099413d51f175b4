"""Folders of domains: a class keeps to one split in all of them, and a task may go across two."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabench import data
from metabench.core import MetabenchError, seeds
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.sampling import Shape
from tests.data.sets.test_folder import SIX, load, paint, parts, refused

DOMAINS = ("photo", "sketch", "clip art")


def domains(root: Path, n_classes: int = 6) -> Path:
    for place, domain in enumerate(DOMAINS):
        for row in range(n_classes):
            for column in range(4):
                paint(root / domain / f"class{row}" / f"{column}.png", 80 * place + 10 * row + column)
    return root


def test_a_class_is_in_one_split_with_all_its_domains(tmp_path: Path) -> None:
    splits = load(domains(tmp_path), domains=True, **SIX)
    for part in parts(splits):
        assert set(part.domains) == set(DOMAINS)
        assert all(name.startswith(f"{home}/") for name, home in zip(part.classes, part.domains, strict=True))
        assert len(part.classes) == 6  # two names in three domains
        assert len({name.split("/")[1] for name in part.classes}) == 2
    names = [{name.split("/")[1] for name in part.classes} for part in parts(splits)]
    assert len(set.union(*names)) == 6


def test_support_and_query_come_from_two_domains_of_the_users_own_images(tmp_path: Path) -> None:
    splits = load(domains(tmp_path), domains=True, **SIX)
    task = TaskConfig(dataset="folder", way=2, shot=1, query=2, test_query=2, domains="across")
    data.check(task, splits)
    source, shape = sampling.pool(splits.meta_train, task), Shape(2, 1, 2)
    indices = sampling.sample(seeds.generator("across"), source, shape, 8)
    drawn = frozen.gather(splits.meta_train.images, indices, shape)
    for index in range(8):
        support = {round(float(x[0, 0, 0]) * 255) // 80 for x in drawn.support.x[index]}
        query = {round(float(x[0, 0, 0]) * 255) // 80 for x in drawn.query.x[index]}
        assert len(support) == len(query) == 1
        assert support != query


def test_split_folders_may_hold_domains(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for domain in DOMAINS:
            for row in range(2):
                paint(tmp_path / split / domain / f"{split}{row}" / "a.png", 10 * row)
    splits = load(tmp_path, domains=True)
    assert splits.meta_test.classes == tuple(f"{d}/test{row}" for row in range(2) for d in sorted(DOMAINS))


def test_a_class_whose_domains_are_in_two_splits_is_refused(tmp_path: Path) -> None:
    for split, domain in (("train", "photo"), ("val", "photo"), ("test", "sketch")):
        for row in range(2):
            paint(tmp_path / split / domain / f"{split}{row}" / "a.png", 10 * row)
    paint(tmp_path / "test" / "sketch" / "train0" / "a.png", 99)
    assert "class 'train0' is in meta_train and in meta_test" in refused(tmp_path, domains=True)


def test_images_and_classes_on_the_wrong_level_are_named(tmp_path: Path) -> None:
    domains(tmp_path)
    paint(tmp_path / "photo" / "stray.png")
    (tmp_path / "empty").mkdir()
    error = refused(tmp_path, domains=True, **SIX)
    assert "stray.png': an image outside the folders of classes" in error
    assert "domain 'empty' is empty" in error


def test_without_the_option_folders_inside_classes_are_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"the images lie 2 folders deep.*domains=true"):
        load(domains(tmp_path), **SIX)
