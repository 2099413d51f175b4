"""Every data set keeps the same promises; mistakes in a task are told before any file is opened."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from metabench import data
from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import TaskConfig
from metabench.data.reading.splits import make_splits

SMALL: dict[str, dict[str, Any]] = {
    "glyphs": {"n_classes": 30, "n_examples": 14},
    "quickdraw": {"examples_per_class": 20},
    "omniglot": {},
    "sinusoid": {"functions": 100},
    "terrain": {"n_domains": 4, "n_examples": 3, "size": 16},
    "communities": {},
    "zafar": {"tasks": 20},
    "navigation": {"environments": 20},
    "navigation_sparse": {"environments": 20},
    "cartpole": {"environments": 20},
    "pendulum": {"environments": 20},
    "half_cheetah": {"environments": 20},
    "bandit": {"environments": 20},
    "tabular": {"environments": 20},
}
OTHER: dict[str, dict[str, Any]] = {
    "glyphs": {"n_classes": 30, "n_examples": 14, "seed": 1},
    "quickdraw": {"examples_per_class": 25},
    "omniglot": {"rotations": False},
    "sinusoid": {"functions": 100, "seed": 1},
    "terrain": {"n_domains": 4, "n_examples": 3, "size": 16, "split_by": "class"},
    "communities": {"smallest": 30},
    "zafar": {"tasks": 20, "seed": 1},
    "navigation": {"environments": 20, "horizon": 50},
    "navigation_sparse": {"environments": 20, "horizon": 50},
    "cartpole": {"environments": 20, "seed": 1},
    "pendulum": {"environments": 20, "seed": 1},
    "half_cheetah": {"environments": 20, "horizon": 50},
    "bandit": {"environments": 20, "arms": 3},
    "tabular": {"environments": 20, "states": 3},
}
OWN = {"array", "folder", "mixture", "table"}
"""Data sets without files of their own, which have tests of their own."""

PHOTOS = {"cifar_fs", "fc100", "mini_imagenet", "tiered_imagenet", "cub"}
"""Data sets of colour, whose tests make files like theirs."""

NAMES = [name for name in data.names() if name not in OWN | PHOTOS]
COLOURED = {"terrain"}
IMAGES = [name for name in NAMES if len(data.outline(data.get(name), {})[1]) == 3 and name not in COLOURED]


def load_or_skip(name: str, options: dict[str, Any]) -> Splits:
    root = data.default_root()
    if not data.get(name).is_available(root):
        pytest.skip(f"no files of {name} under METABENCH_DATA={os.environ.get('METABENCH_DATA')}")
    return data.load(TaskConfig(dataset=name, options=options))


def made_up(n_classes: int, n_examples: int) -> Splits:
    images = torch.zeros(n_classes, n_examples, 1, 4, 4, dtype=torch.uint8)
    parts = [
        Split(images, tuple(f"{part}{i}" for i in range(n_classes)), ("none",) * n_classes) for part in "abc"
    ]
    return make_splits("made up", *parts)


def test_the_folder_is_the_registry() -> None:
    expected = (
        "array bandit cartpole cifar_fs communities cub fc100 folder glyphs half_cheetah mini_imagenet "
        "mixture navigation navigation_sparse omniglot pendulum quickdraw sinusoid table tabular terrain "
        "tiered_imagenet zafar"
    )
    assert data.names() == expected.split()
    assert all(data.get(name).name == name for name in data.names())


@pytest.mark.parametrize("name", IMAGES)
def test_splits_are_uint8_white_on_black_with_disjoint_classes(name: str) -> None:
    splits = load_or_skip(name, SMALL[name])
    parts = (splits.meta_train, splits.meta_validation, splits.meta_test)
    for part in parts:
        assert part.images.dtype == torch.uint8
        assert part.images.shape[2:] == (1, 28, 28)
        assert len(part.images) == len(part.classes) == len(part.domains) == len(set(part.classes))
        brightest = part.images.flatten(2).amax(2)
        assert (brightest > 100).float().mean() > 0.999, "strokes are white"
        assert part.images.float().mean() < 100, "on black"
    assert not set(parts[0].classes) & set(parts[1].classes)
    assert not set(parts[0].classes) & set(parts[2].classes)
    assert not set(parts[1].classes) & set(parts[2].classes)


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_is_of_the_bytes_and_so_of_the_options(name: str) -> None:
    first = load_or_skip(name, SMALL[name])
    assert load_or_skip(name, SMALL[name]).fingerprint == first.fingerprint
    assert load_or_skip(name, OTHER[name]).fingerprint != first.fingerprint


def test_the_fingerprint_sees_one_pixel_one_name_and_one_domain() -> None:
    splits = made_up(2, 2)
    part = splits.meta_test
    images = part.images.clone()
    images[0, 0, 0, 0, 0] = 1
    changes = [
        part._replace(images=images),
        part._replace(classes=("x", "y")),
        part._replace(domains=("x", "x")),
        part._replace(counts=torch.tensor([2, 1])),
        part._replace(counts=torch.tensor([1, 2])),
    ]
    rest = (splits.meta_train, splits.meta_validation)
    prints = {make_splits("made up", *rest, change).fingerprint for change in changes}
    assert len(prints | {splits.fingerprint}) == 6


def test_the_fingerprint_of_classes_of_one_size_is_what_it_always_was() -> None:
    digest = hashlib.sha256(b"made up")
    for part in "abc":
        digest.update(repr(((2, 2, 1, 4, 4), (f"{part}0", f"{part}1"), ("none", "none"))).encode())
        digest.update(bytes(2 * 2 * 16))
    assert made_up(2, 2).fingerprint == digest.hexdigest()


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(MetabenchError, match=r"'quickdrow': unknown. Did you mean 'quickdraw'"):
        data.load(TaskConfig(dataset="quickdrow"))


def test_a_wrong_split_and_wrong_options_are_reported_together() -> None:
    options = {"n_clases": 5, "n_examples": 1, "seed": True}
    with pytest.raises(MetabenchError) as error:
        data.load(TaskConfig(dataset="glyphs", split="randon", options=options))
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "split='randon': unknown. Did you mean 'random'?" in lines[0]
    assert "Did you mean 'n_classes'?" in lines[1]
    assert "n_examples=1: must be >= 2" in lines[2]
    assert "seed=True: must be a whole number" in lines[3]


def test_a_task_that_needs_more_than_a_split_has_is_refused_with_all_reasons() -> None:
    splits = made_up(n_classes=6, n_examples=10)
    data.check(TaskConfig(dataset="x", way=6, shot=1, query=9, test_query=9), splits)
    with pytest.raises(MetabenchError) as error:
        data.check(TaskConfig(dataset="x", way=7, shot=5, query=6, test_query=5), splits)
    message = str(error.value)
    assert message.count("way=7") == 3
    assert "shot=5 and query=6 need 11 examples a class: meta_train of made up has only 10" in message
    assert "test_query" not in message


def test_the_smallest_class_decides_and_is_named() -> None:
    splits = made_up(n_classes=6, n_examples=10)
    counts = torch.tensor([10, 10, 4, 10, 10, 10])
    splits = splits._replace(meta_test=splits.meta_test._replace(counts=counts))
    data.check(TaskConfig(dataset="x", way=6, shot=1, query=9, test_query=3), splits)
    with pytest.raises(MetabenchError) as error:
        data.check(TaskConfig(dataset="x", way=6, shot=1, query=9, test_query=4), splits)
    assert str(error.value) == (
        "shot=1 and test_query=4 need 5 examples a class: meta_test of made up has only 4 in class 'c2'; "
        "lower shot or test_query"
    )


HOMES = {"omniglot": "omniglot", "quickdraw": "quickdraw", "cifar_fs": "cifar100", "fc100": "cifar100"}


@pytest.mark.parametrize("name", HOMES)
def test_data_that_is_not_there_is_told_with_where_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not data.get(name).is_available(None)
    assert not data.get(name).is_available(tmp_path)
    with pytest.raises(MetabenchError, match=str(tmp_path / HOMES[name]) + ".*To download: "):
        data.load(TaskConfig(dataset=name), tmp_path)
    monkeypatch.setenv("METABENCH_DATA", "")
    with pytest.raises(MetabenchError, match=r"METABENCH_DATA is not set.*To download: "):
        data.load(TaskConfig(dataset=name))
