"""Data that a program holds, or that a function of somebody's makes, give what files would."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from typer.testing import CliRunner

import metabench as mb
from metabench import data
from metabench.cli import app
from metabench.core import SPLITS, MetabenchError, Splits
from metabench.core.config import TaskConfig
from metabench.predict import pictures as pictures_of
from metabench.search import space as spaces
from metabench.training import inputs

Pairs = list[tuple[Any, Any]]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Make a folder of twelve classes of four pictures of different sizes."""
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "pictures" / f"class {number}"
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (20 + index, 30, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "pictures"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is written in a folder of the test's own."""
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loaded(named: dict[str, Any]) -> Splits:
    return data.load(TaskConfig(dataset=named["name"], options=named["options"]))


def points(shape: tuple[int, ...], n_classes: int = 12) -> Pairs:
    """Make pairs of random numbers in [0, 1] and labels, four a class."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(shape, generator=generator), i % n_classes) for i in range(4 * n_classes)]


def test_an_image_folder_gives_the_data_that_folder_gives(pictures: Path) -> None:
    ours = data.load(TaskConfig(dataset="folder", options={"path": str(pictures), "size": 12}))
    theirs = loaded(mb.data.from_dataset(ImageFolder(str(pictures)), size=12))
    for part in SPLITS:
        one, other = getattr(ours, part), getattr(theirs, part)
        assert one.classes == other.classes
        assert torch.equal(one.images, other.images)


def test_tensors_arrays_and_pictures_are_the_same_bytes(pictures: Path) -> None:
    shown = [(Image.open(one), one.parent.name) for one in sorted(pictures.glob("*/0.png"))] * 4
    as_tensors = [(transforms.functional.to_tensor(image), label) for image, label in shown]
    as_arrays = [(np.asarray(image), label) for image, label in shown]
    named = [mb.data.from_dataset(one) for one in (shown, as_tensors, as_arrays)]
    assert named[0] == named[1] == named[2], "the folder is named by the content"
    assert loaded(named[0]).meta_train.images.shape[2:] == (3, 20, 30)


def test_a_picture_of_a_dataset_is_the_same_input_in_whatever_form_it_comes() -> None:
    pairs = points((3, 6, 6))
    splits = loaded(mb.data.from_dataset(pairs))
    assert splits.pictures is not None
    about = inputs.of(splits)
    tensor = pairs[0][0]
    whole = (tensor * 255).round().to(torch.uint8).numpy().transpose(1, 2, 0)
    forms = [tensor, tensor.numpy().transpose(1, 2, 0), whole, Image.fromarray(whole)]
    (made,) = pictures_of.chunks(forms, about, is_prepared=False)
    assert torch.equal(made, (tensor * 255).round().div(255).expand(4, -1, -1, -1))


def test_three_datasets_are_the_three_splits() -> None:
    parts = {part: points((1, 6, 6), 3) for part in ("train", "val", "test")}
    parts = {part: [(x, f"{part} {y}") for x, y in pairs] for part, pairs in parts.items()}
    splits = loaded(mb.data.from_dataset(parts))
    assert splits.meta_validation.classes == ("val 0", "val 1", "val 2")
    assert splits.meta_train.images.shape == (3, 4, 1, 6, 6)


def test_features_become_classes_of_rows_as_they_are() -> None:
    pairs = points((7,))
    splits = loaded(mb.data.from_dataset(pairs))
    assert splits.kind == "classification"
    rows = [row for part in splits[1:4] for row in part.images.flatten(0, 1)]
    assert sorted(row.tolist() for row in rows) == sorted(x.tolist() for x, _ in pairs)


def test_a_frame_is_a_table() -> None:
    frame = pd.DataFrame({"a": np.arange(48.0), "b": np.arange(48) % 5, "kind": np.arange(48) % 12})
    splits = loaded(mb.data.from_frame(frame, label="kind"))
    assert splits.meta_train.images.shape[1:] == (4, 2)
    assert set(splits.meta_train.classes) <= set(map(str, range(12)))


def test_a_run_goes_on_after_a_restart_and_a_search_takes_the_same_data(tmp_path: Path) -> None:
    named = mb.data.from_dataset(points((7,)), seed=3)
    settings: dict[str, Any] = {"way": 2, "query": 1, "test_query": 1, "tasks": 8, "reports": 1}
    folder = tmp_path / "run"
    run = mb.train("protonet", named, network="mlp", out=folder, validation_tasks=4, quiet=True, **settings)
    again = mb.train("protonet", named, network="mlp", out=folder, validation_tasks=4, quiet=True, **settings)
    assert again.folder == run.folder
    task = {"dataset": named, "way": 2, "query": 1, "test_query": 1}
    document = {"task": task, "network": {"name": "mlp"}, "budget": {"tasks": 9, "trials": 1, "grace": 9}}
    space = spaces.check({**document, "algorithms": {"protonet": {}}}, "space")
    assert space.task.dataset == "table"
    assert data.load(space.task).fingerprint == data.load(run.config.task).fingerprint


class Broken:
    """A dataset whose examples cannot be read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise OSError("disk on fire")


GREY = np.zeros((6, 6), np.uint8)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (7, "int: has no length and index"),
        ([], "holds no example"),
        ([GREY], "example 0: is ndarray; must be a pair"),
        ([(GREY, 0), (GREY[:5], 1)], "example 0 has shape [6, 6], example 1 [5, 6]; give size"),
        (
            [(GREY, 0), (np.zeros((6, 6, 3), np.uint8), 1)],
            "[6, 6], example 1 [6, 6, 3]; give size, or channels",
        ),
        ([(np.full((6, 6), -2.0), 0)], "[-2, -2]: must be uint8"),
        ([(np.full((6, 6), np.nan), 0)], "must be uint8, or have a point"),
        ([(np.zeros((2, 6, 6, 3)), 0)], "picture of shape [2, 6, 6, 3]"),
        ([("a.png", 0)], "picture is str; must be an image of Pillow's"),
        ([(GREY, 0.5)], "label 0.5 is float; must be a whole number or a word"),
        ([(GREY, None)], "label None is NoneType"),
        ([(GREY, [1, 0])], "label [1, 0] is list"),
        ([(GREY, torch.tensor([1, 0]))], "must be a whole number or a word"),
        ([(np.array([1.0, np.nan]), 0)], "features hold NaN or infinity"),
        ([(np.array([1.0, 1e300]), 0)], "features hold NaN or infinity"),
        (pd.DataFrame({"a": [1]}), "DataFrame: is a table; give it to from_frame"),
        ([(np.array(["a", "b"]), 0)], "features of <U1; must be numbers"),
        (Broken(), "example 0: raised OSError: disk on fire"),
        ({"train": [(GREY, 0)]}, "give meta_train, meta_validation, meta_test"),
    ],
)
def test_each_mistake_of_a_dataset_is_one_message(dataset: Any, words: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        mb.data.from_dataset(dataset)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"a": [1]}, "dict; give a pandas DataFrame"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "column 'a' stands twice"),
        (pd.DataFrame({"a": [1, "x", object()]}), "cannot be written as Parquet"),
    ],
)
def test_each_mistake_of_a_frame_is_one_message(frame: Any, words: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        mb.data.from_frame(frame, label="a")
    assert words in str(caught.value)


SOURCE = '''
import numpy as np
import torch
from metabench.core import Split, Splits


def rows(size: int = 5, scale: float = 1.0):
    """Classes of random rows."""
    def part(name):
        values = scale * torch.rand(3, 4, size, generator=torch.Generator().manual_seed(len(name)))
        return Split(values, tuple(f"{name} {i}" for i in range(3)), ("rows",) * 3)
    return Splits("rows", part("a"), part("bb"), part("ccc"), "")


def pairs():
    return [(np.full((6, 6), 20 * (i % 12), np.uint8), i % 12) for i in range(48)]


def lines():
    made = rows()
    return made._replace(kind="regression")


lines.kind = "regression"


def needy(path: str):
    return path


def regression():
    return rows()._replace(kind="regression")


def raises():
    raise ValueError("no such table")


def doubles():
    made = rows()
    return made._replace(meta_test=made.meta_test._replace(images=made.meta_test.images.double()))


def holed():
    made = rows()
    made.meta_train.images[0, 0, 0] = float("nan")
    return made


def unnamed():
    made = rows()
    return made._replace(meta_train=made.meta_train._replace(classes=("a",)))


def leaking():
    made = rows()
    return made._replace(meta_test=made.meta_train)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a module of somebody's on the path."""
    (tmp_path / "somebodys_data.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("somebodys_data", None)


@pytest.mark.usefixtures("module")
def test_a_function_makes_a_data_set_and_its_arguments_are_the_options() -> None:
    splits = data.load(TaskConfig(dataset="module:somebodys_data:rows", options={"size": 6}))
    assert splits.name == "somebodys_data.rows/own"
    assert splits.meta_test.images.shape == (3, 4, 6)
    other = data.load(TaskConfig(dataset="module:somebodys_data:rows", options={"size": 6, "scale": 2.0}))
    assert other.fingerprint != splits.fingerprint
    assert data.load(TaskConfig(dataset="module:somebodys_data:pairs")).meta_train.images.shape[1:] == (
        4,
        1,
        6,
        6,
    )
    assert data.load(TaskConfig(dataset="module:somebodys_data:lines", way=1)).kind == "regression"


@pytest.mark.usefixtures("module")
def test_a_table_that_a_function_returns_takes_rows_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame({"a": np.arange(48.0), "b": np.arange(48) % 5, "kind": np.arange(48) % 12})
    made = loaded(mb.data.from_frame(table, label="kind"))
    monkeypatch.setattr("somebodys_data.table", lambda: made, raising=False)
    splits = data.load(TaskConfig(dataset="module:somebodys_data:table"))
    assert splits.rows == made.rows
    assert splits.rows is not None


@pytest.mark.usefixtures("module")
def test_a_space_may_name_the_function_in_a_dict() -> None:
    document = {
        "task": {
            "dataset": {"module": "somebodys_data:rows", "size": 4},
            "way": 2,
            "query": 1,
            "test_query": 1,
        },
        "network": {"name": "mlp"},
        "budget": {"tasks": 9, "trials": 1, "grace": 9},
        "algorithms": {"protonet": {}},
    }
    task = spaces.check(document, "space").task
    assert (task.dataset, task.options) == ("module:somebodys_data:rows", {"size": 4})


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("somebodys_dat:rows", {}, "no module 'somebodys_dat'. Did you mean 'somebodys_data'?"),
        ("somebodys_data:row", {}, "has no 'row'. Did you mean 'rows'?"),
        ("somebodys_data", {}, "must be package.module:name"),
        ("somebodys_data:rows", {"sise": 3}, "sise: unknown setting. Did you mean 'size'?"),
        ("somebodys_data:rows", {"size": "large"}, "size='large': must be a whole number"),
        ("somebodys_data:rows", {"size": -1}, "raised RuntimeError"),
        ("somebodys_data:needy", {}, "needs the options path"),
        ("somebodys_data:needy", {"path": "x"}, "gave str; must give"),
        ("somebodys_data:regression", {}, "set make.kind = 'regression'"),
        ("somebodys_data:raises", {}, "raised ValueError: no such table"),
        ("somebodys_data:doubles", {}, "meta_test: images are torch.float64 [3, 4, 5]; must be"),
        ("somebodys_data:holed", {}, "meta_train: images hold NaN or infinity"),
        ("somebodys_data:unnamed", {}, "has 3 rows, 1 classes and 3 domains"),
        ("somebodys_data:leaking", {}, "is in meta_train and in meta_test"),
    ],
)
def test_each_mistake_of_a_function_is_one_message(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MetabenchError) as caught:
        data.load(TaskConfig(dataset=f"module:{name}", options=options))
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["module:somebodys_data:row"], "dataset='somebodys_data:row': somebodys_data"),
        (["module:somebodys_data:holed"], "meta_train: images hold NaN or infinity"),
        (["module:somebodys_data:rows", "--option", "sise=3"], "--option sise: unknown setting"),
        (["table", "--option", "lable=kind"], "Did you mean 'label'?"),
        (["table", "--option", "label=kind", "--network", "conv4"], "choose network mlp"),
        (
            ["table", "--option", "label=kind", "--network", "mlp", "--set", "augment=both"],
            "only images can be",
        ),
    ],
)
def test_the_command_line_says_each_mistake_in_one_message(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["train", "--algorithm", "protonet", "--dataset", *words])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
