"""Mixtures: domains, weights, images made alike, and no class on both sides."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metabench import data
from metabench.core import MetabenchError, Split, Splits, seeds
from metabench.core.config import TaskConfig
from metabench.data.sets import mixture
from metabench.data.tasks import sampling
from metabench.data.tasks.sampling import Shape

GLYPHS = "glyphs?n_classes=60&n_examples=6"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Save an array of ten classes of four colour images, 12 x 12."""
    rng = np.random.default_rng(0)
    path = tmp_path / "photos.npz"
    images = rng.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.repeat([f"c{i}" for i in range(10)], 4))
    return path


def load(**options: bool | int | float | str) -> Splits:
    return data.load(TaskConfig(dataset="mixture", options=options))


def refusal(**options: bool | int | float | str) -> str:
    with pytest.raises(MetabenchError) as caught:
        load(**options)
    return str(caught.value)


def test_data_sets_are_domains_whose_images_are_made_alike(photos: Path) -> None:
    array = f"array?path={photos}&meta_train=0.5&meta_validation=0.25"
    splits = load(of=f"{GLYPHS} + {array}", size=20, channels=3)
    part = splits.meta_train
    assert part.images.shape[2:] == (3, 20, 20)
    assert Counter(part.domains) == {"glyphs": 38, "array": 5}
    assert all(name.startswith(home) for name, home in zip(part.classes, part.domains, strict=True))
    assert part.counts is not None
    assert part.counts.tolist() == [6] * 38 + [4] * 5
    assert not part.images[38:, 4:].any()


def test_a_data_set_is_drawn_as_often_as_its_weight_says(photos: Path) -> None:
    array = f"array?path={photos}&meta_train=0.5&meta_validation=0.25"
    splits = load(of=f"{GLYPHS} + 3*{array}")
    task = TaskConfig(dataset="mixture", way=2, domains="within")
    source = sampling.pool(splits.meta_train, task)
    drawn = sampling.sample(seeds.generator("weights"), source, Shape(2, 1, 1), 4000)
    homes = [splits.meta_train.domains[row] for row in drawn.classes[:, 0].tolist()]
    assert abs(homes.count("array") / 4000 - 0.75) < 0.04  # standard deviation 0.007
    anywhere = sampling.pool(splits.meta_train, task.model_copy(update={"domains": "any"}))
    first = sampling.sample(seeds.generator("any"), anywhere, Shape(1, 1, 1), 4000).classes[:, 0]
    assert abs(float((first >= 38).float().mean()) - 0.75) < 0.04


def test_meta_test_may_be_on_a_data_set_that_is_never_trained_on(photos: Path) -> None:
    splits = load(of=GLYPHS, test_on=f"array?path={photos}&meta_train=0.4&meta_validation=0.2")
    assert set(splits.meta_train.domains) == set(splits.meta_validation.domains) == {"glyphs"}
    assert set(splits.meta_test.domains) == {"array"}
    assert len(splits.meta_test.classes) == 4
    assert splits.meta_test.images.shape[2:] == (1, 28, 28)


def test_grey_and_resizing_agree_with_pillow() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 3, 3, 40, 40), dtype=np.uint8)
    resized = mixture.resized(torch.from_numpy(images), 17, 1)
    for row in range(2):
        for column in range(3):
            picture = Image.fromarray(images[row, column].transpose(1, 2, 0)).convert("L")
            theirs = np.asarray(picture.resize((17, 17), Image.Resampling.BILINEAR)).astype(int)
            difference = np.abs(resized[row, column, 0].numpy().astype(int) - theirs)
            assert difference.max() <= 1  # Pillow rounds after each of its two passes and after grey


def test_images_that_are_alike_already_stay_as_they_are() -> None:
    images = torch.randint(0, 256, (2, 2, 1, 9, 9), dtype=torch.uint8)
    assert mixture.resized(images, 9, 1) is images


def test_a_class_in_two_splits_is_refused_also_where_one_is_turned() -> None:
    images = torch.zeros(1, 1, 1, 2, 2, dtype=torch.uint8)

    def split(name: str) -> Split:
        return Split(images, (name,), ("omniglot",))

    parts = {
        "meta_train": split("omniglot/Greek/character01/90"),
        "meta_test": split("omniglot/Greek/character01"),
    }
    assert "is in meta_test too" in mixture.leaks(parts)[0]
    parts["meta_train"] = split("omniglot/Greek/character011")
    assert mixture.leaks(parts) == []


@pytest.mark.skipif("METABENCH_DATA" not in os.environ, reason="METABENCH_DATA is not set: no real data here")
def test_two_splits_of_omniglot_are_not_mixed_and_other_data_sets_are() -> None:
    message = refusal(of="omniglot/vinyals", test_on="omniglot/lake")
    assert "too; take one split of its data set" in message
    splits = load(of=GLYPHS, validate_on="omniglot", test_on="quickdraw/meta_dataset?examples_per_class=20")
    assert set(splits.meta_validation.domains) == {"omniglot"}
    assert len(splits.meta_test.classes) == 52


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "of is not set"),
        ({"of": "glyfs"}, "Did you mean 'glyphs'"),
        ({"of": "glyphs + glyphs"}, "glyphs stands twice"),
        ({"of": "0*glyphs"}, "weight '0': must be a number > 0"),
        ({"of": "much*glyphs"}, "weight 'much'"),
        ({"of": "glyphs/own"}, "split='own': unknown"),
        ({"of": "glyphs?n_clases=5"}, "Did you mean 'n_classes'"),
        ({"of": "glyphs?n_classes=5"}, "n_classes=5: must be >= 10"),
        ({"of": "glyphs?n_classes"}, "option n_classes: must be key=value"),
        ({"of": "glyphs and omniglot"}, "joined by ' + '"),
        ({"of": "mixture"}, "cannot hold a mixture"),
        ({"of": "sinusoid"}, "holds no pictures; a mixture is of images"),
        ({"of": "glyphs", "test_on": "glifs"}, "test_on='glifs'"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_told(options: dict[str, str], message: str) -> None:
    assert message in refusal(**options)


def test_a_mixture_is_read_from_what_its_data_sets_are_read_from(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar100" / "cifar-100-binary").mkdir(parents=True)
    (tmp_path / "cub").mkdir()
    options = {"of": f"glyphs + array?path={photos}", "test_on": "cifar_fs + fc100 + cub"}
    sources = data.sources(TaskConfig(dataset="mixture", options=options), tmp_path)
    assert sources == [photos, tmp_path / "cifar100" / "cifar-100-binary", tmp_path / "cub"]
