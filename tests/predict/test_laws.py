"""What holds of every prediction, whatever learnt it: by itself, by any name, from any form of a picture."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import metabench
from metabench import algorithms
from metabench.core import MetabenchError, Task
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen
from metabench.storage import files
from metabench.training import run as runs
from tests.predict import trained
from tests.support import small

CLASSIFIERS = algorithms.names("classification")
NEAR = {"rtol": 0, "atol": 2e-5}  # float32 sums in another order, through a few inner steps
METRIC = (
    "protonet",
    "matching",
    "r2d2",
    "proto_maml",
    "finetune",
    "baseline_pp",
    "nearest_mean",
    "simpleshot",
    "soft_kmeans",
    "logistic",
)
"""Learners whose weights hold no output of a class."""


def tasks_of(folder: Path, n_tasks: int) -> tuple[list[Task], list[float]]:
    """Return frozen meta-test tasks one by one, and what the run's test says of each."""
    config, splits = runs.read_config(folder), trained.splits()
    with trained.quickly():
        result = runs.test_run(folder, splits, n_tasks)
    (group,) = frozen.frozen(splits, "meta_test", config.task, n_tasks, "test").groups
    many = frozen.gather(splits.meta_test.images, group.indices, group.shape)
    one = [
        Task(*(type(part)(*(leaf[row] for leaf in part)) for part in many[:2]), many.classes[row])
        for row in range(n_tasks)
    ]
    return one, result["accuracy_one_at_a_time"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_fit_and_predict_reach_the_accuracy_of_meta_test(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.run(name), tmp_path / "run")
    classifier = metabench.load(folder, prepared=True)
    tasks, figures = tasks_of(folder, 4)
    reached = [
        classifier.fit(task.support.x, task.support.y).score(task.query.x, task.query.y) for task in tasks
    ]
    assert reached == pytest.approx(figures, abs=1e-6)  # a share in float32


@pytest.mark.parametrize("batch_norm", ["support_stats", "with_support", "transductive"])
@pytest.mark.parametrize("name", ["protonet", "maml", "maml_pp", "snail", "baseline_pp", "nearest_mean"])
def test_a_picture_alone_is_classified_as_among_others(name: str, batch_norm: str) -> None:
    classifier = metabench.load(trained.run(name, batch_norm=batch_norm))
    classifier.fit([*trained.draw(6)], [0, 1, 0, 1, 0, 2])
    queries = [*trained.draw(5, seed=1)]
    together = classifier.predict_proba(queries)
    alone = np.concatenate([classifier.predict_proba([one]) for one in queries])
    np.testing.assert_allclose(alone, together, **NEAR)
    assert together.sum(1) == pytest.approx(1)
    is_told = any("transductive" in note for note in classifier.notes)
    assert is_told == (batch_norm == "transductive" and name != "nearest_mean")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_other_names_of_the_classes_change_nothing_but_the_names(name: str) -> None:
    classifier, support, queries = metabench.load(trained.run(name)), [*trained.draw(6)], trained.draw(4, 1)
    before = classifier.fit(support, ["a", "b", "c"] * 2).predict_proba(queries)
    after = classifier.fit(support, ["z", "y", "x"] * 2).predict_proba(queries)
    assert classifier.classes_.tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(after, before[:, ::-1])


@pytest.mark.parametrize("name", METRIC)
def test_the_order_of_classes_and_examples_changes_nothing(name: str) -> None:
    classifier, queries = metabench.load(trained.run(name)), trained.draw(4, 1)
    support, labels = trained.draw(6), np.array(["a", "b", "c", "a", "b", "c"])
    before = classifier.fit([*support], labels).predict_proba(queries)
    order = [5, 3, 1, 0, 4, 2]
    after = classifier.fit([*support[order]], labels[order]).predict_proba(queries)
    np.testing.assert_allclose(after, before, **NEAR)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_any_number_of_classes_is_learnt_or_refused(name: str, n_classes: int) -> None:
    """The small runs are of three ways; each class counts another number of examples."""
    classifier = metabench.load(trained.run(name))
    labels = [label for label in range(n_classes) for _ in range(label + 1)]
    support, queries = [*trained.draw(len(labels))], trained.draw(4, seed=1)
    if n_classes > 3 and name not in METRIC:
        with pytest.raises(MetabenchError, match=r"3 ways, here are up to 5.*train with `way` 5") as refused:
            classifier.fit(support, labels)
        assert "\n" not in str(refused.value)
        return
    shares = classifier.fit(support, labels).predict_proba(queries)
    assert shares.shape == (4, n_classes)
    assert shares.sum(1) == pytest.approx(1)
    assert set(classifier.predict(support).tolist()) <= set(labels)


# A regression that is held back by a penalty promises no such thing.
@pytest.mark.parametrize("name", [name for name in METRIC if name != "logistic"])
def test_every_class_can_be_chosen(name: str) -> None:
    classifier = metabench.load(trained.run(name), prepared=True)
    images = small.splits().meta_test.images[:5, 0]  # one of each class, which is then asked for
    shares = classifier.fit(images, range(5)).predict_proba(images)
    assert shares.min() > 0
    # Nobody is likelier of a class than its own, or, with lengths that differ, it is of no class likelier.
    axis = 1 if name == "simpleshot" else 0
    assert (np.diag(shares) >= shares.max(axis) - NEAR["atol"]).all()


@pytest.mark.parametrize(
    ("mode", "size", "suffix"),
    [
        *(
            ("L", (16, 16), "png"),
            ("L", (40, 23), "png"),
            ("RGB", (23, 40), "png"),
            ("RGBA", (30, 30), "png"),
        ),
        *(("RGB", (50, 30), "jpg"), ("I;16", (20, 20), "png"), ("1", (33, 21), "png")),
    ],
)
@pytest.mark.parametrize("is_inverted", [False, True])
def test_a_picture_is_the_same_from_disk_and_from_memory(
    mode: str, size: tuple[int, int], suffix: str, is_inverted: bool, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained.run(), tmp_path / "run")
    record = files.read_json(folder / files.INPUTS)
    record["pictures"]["is_inverted"] = is_inverted
    files.write_json(folder / files.INPUTS, record)
    classifier = metabench.load(folder).fit([*trained.draw(4)], [0, 1, 0, 1])
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, size[::-1]).astype(np.uint16)
    shape = {"RGB": (*size[::-1], 3), "RGBA": (*size[::-1], 4)}.get(mode, size[::-1])
    bytes_ = rng.integers(0, 256, shape).astype(np.uint8)
    image = Image.fromarray(values if mode == "I;16" else bytes_)
    (image.convert("1") if mode == "1" else image).save(tmp_path / f"one.{suffix}")
    with Image.open(tmp_path / f"one.{suffix}") as opened:
        opened.load()
    array = np.asarray(opened)
    forms: list[Any] = [tmp_path / f"one.{suffix}", str(tmp_path / f"one.{suffix}"), opened, array]
    if array.dtype == np.uint8:
        forms.append(torch.tensor(array).movedim(-1, 0) if array.ndim == 3 else torch.tensor(array))
        forms.append((array / 255).astype(np.float64))
    first, *others = (classifier.predict_proba([form]) for form in forms)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_camera_s_orientation_is_applied_to_what_pillow_has_opened(tmp_path: Path) -> None:
    classifier = metabench.load(trained.run()).fit([*trained.draw(4)], [0, 1, 0, 1])
    image, exif = Image.fromarray(trained.draw(1, 3)[0, :, :, 0]), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        turned = classifier.predict_proba([tmp_path / "turned.png", opened, np.rot90(np.asarray(image), -1)])
    assert np.ptp(turned, axis=0).max() == 0
    assert not np.array_equal(turned[:1], classifier.predict_proba([image]))


@pytest.fixture(scope="module")
def my_images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """Train on a folder of pictures; return the run, its data, and inputs of a meta-test class."""
    folder = tmp_path_factory.mktemp("mine")
    data_folder = trained.classes_on_disk(folder / "images", n_classes=20, shots=6, size=40)
    options = {"path": str(data_folder), "size": 16, "channels": 1}
    task = TaskConfig(dataset="folder", options=options, way=3, shot=1, query=2, test_query=2)
    splits = metabench.data.load(task)
    config = trained.config("maml").model_copy(update={"task": task})
    with trained.quickly():
        runs.train_run(config, splits, folder / "run")
    return folder / "run", data_folder, splits.meta_test


def test_a_folder_s_pictures_are_the_inputs_that_its_data_set_reads(my_images: Any) -> None:
    folder, data_folder, split = my_images
    labels = list(split.classes[:3])
    places = [sorted((data_folder / name).iterdir()) for name in labels]
    support, queries = [place[0] for place in places], [one for place in places for one in place[1:]]
    from_disk = metabench.load(folder).fit(support, labels).predict_proba(queries)
    prepared = metabench.load(folder, prepared=True).fit(split.images[:3, 0], labels)
    np.testing.assert_array_equal(prepared.predict_proba(split.images[:3, 1:].flatten(0, 1)), from_disk)


def test_a_copied_run_predicts_without_the_data(my_images: Any, tmp_path: Path) -> None:
    folder, data_folder, _ = my_images
    support, labels = metabench.predict.class_folders(trained.classes_on_disk(tmp_path / "new"))
    queries = [*trained.draw(4, seed=9)]
    before = metabench.load(folder).fit(support, labels).predict_proba(queries)
    copied = shutil.copytree(folder, tmp_path / "copy")
    data_folder.rename(tmp_path / "gone")
    try:
        after = metabench.load(copied).fit(support, labels).predict_proba(queries)
    finally:
        (tmp_path / "gone").rename(data_folder)
    np.testing.assert_array_equal(after, before)


def test_importing_the_package_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, metabench; print(sorted({'torch', 'numpy', 'PIL', 'pydantic'} & sys.modules.keys()))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"
