"""Quick, Draw! is cut as Cloudera and Meta-Dataset cut it; bad files are named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from metabench import data
from metabench.config import TaskConfig
from metabench.core import MetabenchError, Splits
from metabench.data import quickdraw

ROWS = 26


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make all categories; drawing i of category c has i in its first pixel and c in the next two."""
    folder = tmp_path / quickdraw.FOLDER
    folder.mkdir(parents=True)
    names = sorted(name for part in quickdraw.meta_dataset_classes().values() for name in part)
    for number, name in enumerate(names):
        images = np.zeros((ROWS + number % 3, 784), np.uint8)
        images[:, 0] = np.arange(len(images))
        images[:, 1:3] = divmod(number, 256)
        np.save(folder / f"{name}.npy", images)
    return tmp_path


def load(root: Path, split: str = "cloudera", n: int = 20) -> Splits:
    task = TaskConfig(dataset="quickdraw", split=split, options={"examples_per_class": n})
    return data.load(task, root)


def file_of(root: Path, name: str) -> Path:
    return root / quickdraw.FOLDER / f"{name}.npy"


def test_clouderas_classes_are_those_of_its_code() -> None:
    classes = quickdraw.cloudera_classes()
    assert [len(part) for part in classes.values()] == [207, 69, 69]
    assert classes["meta_train"][:3] == ["nose", "necklace", "pickup truck"]
    assert classes["meta_validation"][:3] == ["river", "wristwatch", "soccer ball"]
    assert classes["meta_test"][:3] == ["spreadsheet", "dumbbell", "hockey stick"]
    listed = hashlib.md5("\n".join(classes["meta_test"]).encode()).hexdigest()
    assert listed == "f51fec0add1a1aa69d0a7597a25d593b"


def test_both_splits_cut_the_same_345_classes_without_overlap() -> None:
    for classes in (quickdraw.cloudera_classes(), quickdraw.meta_dataset_classes()):
        names = [name for part in classes.values() for name in part]
        assert len(names) == len(set(names)) == 345
        assert set(names) == {name for part in quickdraw.cloudera_classes().values() for name in part}
    assert [len(part) for part in quickdraw.meta_dataset_classes().values()] == [241, 52, 52]


def test_rows_are_those_that_clouderas_generator_draws(root: Path) -> None:
    splits = load(root, n=20)
    names = [name for part in quickdraw.cloudera_classes().values() for name in part]
    files = sorted(names, key=lambda name: f"{name}.npy")
    rng = np.random.RandomState(123)
    rng.shuffle(files)
    assert files == names
    for part, n_rows in ((splits.meta_train, 20), (splits.meta_validation, 26), (splits.meta_test, 26)):
        assert part.images.shape == (len(part.classes), n_rows, 1, 28, 28)
        for row, name in enumerate(part.classes):
            chosen = rng.choice(len(np.load(file_of(root, name), mmap_mode="r")), n_rows, replace=False)
            assert part.images[row, :, 0, 0, 0].tolist() == chosen.tolist()


def test_fewer_drawings_are_the_first_of_more_and_change_no_other_split(root: Path) -> None:
    few, many = load(root, n=20), load(root, n=25)
    assert torch.equal(few.meta_train.images, many.meta_train.images[:, :20])
    assert torch.equal(few.meta_test.images, many.meta_test.images)
    assert few.fingerprint != many.fingerprint


def test_the_split_is_part_of_the_name(root: Path) -> None:
    assert load(root).name == "quickdraw/cloudera"
    assert load(root, "meta_dataset").name == "quickdraw/meta_dataset"
    assert data.get("quickdraw").is_here(root)


def test_too_few_rows_name_the_category_what_it_has_and_what_to_set(root: Path) -> None:
    name = quickdraw.cloudera_classes()["meta_train"][5]
    np.save(file_of(root, name), np.zeros((7, 784), np.uint8))
    with pytest.raises(MetabenchError) as error:
        load(root, n=20)
    assert f"1 meta-train categories have fewer rows; '{name}' has 7 and needs 20" in str(error.value)
    assert "Set the option examples_per_class to 7 or less" in str(error.value)


def test_all_bad_files_are_reported_together(root: Path) -> None:
    file_of(root, "cat").unlink()
    file_of(root, "dog").write_bytes(file_of(root, "dog").read_bytes()[:-100])
    file_of(root, "eye").write_bytes(b"")
    np.save(file_of(root, "fan"), np.zeros((30, 783), np.uint8))
    np.save(file_of(root, "fish"), np.zeros((30, 784), np.float32))
    with pytest.raises(MetabenchError) as error:
        load(root)
    message = str(error.value)
    assert "1 of 345 categories are missing (cat)" in message
    assert "dog.npy: cannot be read as a NumPy array" in message
    assert "eye.npy: cannot be read as a NumPy array" in message
    assert "fan.npy: must be uint8 [n, 784], but is uint8 [30, 783]" in message
    assert "fish.npy: must be uint8 [n, 784], but is float32 [30, 784]" in message
    assert not data.get("quickdraw").is_here(root)


def test_a_pickle_is_not_opened(root: Path) -> None:
    np.save(file_of(root, "cat"), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MetabenchError, match=r"cat.npy: cannot be read as a NumPy array"):
        load(root)


def test_the_real_files_give_clouderas_sizes(data_root: Path) -> None:
    if not data.get("quickdraw").is_here(data_root):
        pytest.skip(f"no Quick, Draw! under {data_root}")
    splits = load(data_root)
    assert splits.meta_train.images.shape == (207, 20, 1, 28, 28)
    assert splits.meta_test.images.shape[0] == 69
    assert splits.meta_test.images.shape[1] >= 25
