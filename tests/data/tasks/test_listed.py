"""Tasks that somebody else chose: each is what its file says, and all that is wrong is told at once."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metabench as mb
from metabench import data
from metabench.core import MetabenchError, Splits, seeds
from metabench.core.config import TaskConfig
from metabench.data.tasks import frozen, listed
from metabench.data.tasks.frozen import FrozenTasks

HEADER = "task,role,label,picture\n"


def png(seed: int, side: int = 12) -> bytes:
    """Make a grey picture that no other seed makes."""
    pixels = torch.randint(256, (side, side), generator=seeds.generator("png", seed), dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def task(tmp_path: Path) -> TaskConfig:
    """Make a folder of three splits with three classes of four pictures each."""
    for number, (part, name) in enumerate((p, c) for p in ("train", "val", "test") for c in "abc"):
        folder = tmp_path / "pictures" / part / f"{part}-{name}"
        folder.mkdir(parents=True)
        for one in range(4):
            (folder / f"{one}.png").write_bytes(png(10 * number + one))
    return TaskConfig(
        dataset="folder", options={"path": str(tmp_path / "pictures"), "size": 12, "channels": 1}
    )


def make(path: Path, task: TaskConfig, text: str) -> tuple[FrozenTasks, Splits]:
    """Make frozen tasks of a table, and read them back from their file."""
    path.write_text(HEADER + text)
    splits = data.load(task)
    tasks, described = listed.of_file(path, splits, "meta_test", task, data.sources(task))
    out = path.with_suffix(".safetensors")
    frozen.write(out, splits, "meta_test", described, listed.POOL, tasks)
    again = frozen.read(out, splits, "meta_test")
    assert again.hash == tasks.hash
    return again, splits


def shown(splits: Splits, names: list[str], folder: Path) -> torch.Tensor:
    """Return pictures of a folder as they are in tasks."""
    pixels = [np.asarray(Image.open(folder / name)) for name in names]
    return torch.from_numpy(np.stack(pixels))[:, None] / 255


BALANCED = """\
one,support,x,test/test-a/0.png
one,query,x,test/test-a/1.png
one,query,y,test/test-c/3.png
one,support,y,test/test-c/0.png
two,support,u,test/test-c/2.png
two,support,v,test/test-b/2.png
two,query,u,test/test-c/1.png
two,query,v,test/test-b/0.png
"""


def test_tasks_show_the_pictures_that_their_file_names(tmp_path: Path, task: TaskConfig) -> None:
    tasks, splits = make(tmp_path / "list.csv", task, BALANCED)
    (group,) = tasks.groups
    block = frozen.gather(splits.meta_test.images, group.indices, group.shape)
    folder = tmp_path / "pictures" / "test"
    support = shown(splits, ["test-a/0.png", "test-c/0.png", "test-c/2.png", "test-b/2.png"], folder)
    query = shown(splits, ["test-a/1.png", "test-c/3.png", "test-c/1.png", "test-b/0.png"], folder)
    assert torch.equal(block.support.x.flatten(0, 1), support)
    assert torch.equal(block.query.x.flatten(0, 1), query)
    assert block.support.y.tolist() == block.query.y.tolist() == [[0, 1], [0, 1]]


def test_copies_beside_the_table_are_the_same_tasks(tmp_path: Path, task: TaskConfig) -> None:
    there, _ = make(tmp_path / "list.csv", task, BALANCED)
    (tmp_path / "copies").mkdir()
    text = BALANCED
    for number, name in enumerate(sorted({line.split(",")[3] for line in BALANCED.splitlines()})):
        (tmp_path / "copies" / f"{number}.png").write_bytes((tmp_path / "pictures" / name).read_bytes())
        text = text.replace(name, f"{number}.png")
    copied, _ = make(tmp_path / "copies" / "list.csv", task, text)
    assert copied.hash == there.hash


def test_labels_may_have_unlike_many_support_pictures(tmp_path: Path, task: TaskConfig) -> None:
    more = "three,support,u,test/test-a/0.png\nthree,support,u,test/test-a/1.png\n"
    more += "three,support,u,test/test-a/2.png\nthree,support,v,test/test-b/1.png\n"
    more += "three,query,u,test/test-a/3.png\nthree,query,v,test/test-b/0.png\n"
    tasks, splits = make(tmp_path / "list.csv", task, BALANCED + more)
    group = next(one for one in tasks.groups if one.positions.tolist() == [2])
    block = frozen.gather(splits.meta_test.images, group.indices, group.shape)
    assert block.support.y.tolist() == [[0, 0, 0, 1]]
    names = ["test-a/0.png", "test-a/1.png", "test-a/2.png", "test-b/1.png"]
    assert torch.equal(block.support.x[0], shown(splits, names, tmp_path / "pictures" / "test"))


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, task: TaskConfig) -> None:
    text = BALANCED + (
        "one,support,x,nowhere.png\n"
        "one,teacher,x,test/test-a/2.png\n"
        "one,support,,test/test-a/2.png\n"
        "leak,support,x,train/train-a/0.png\n"
        "mixed,support,x,test/test-a/0.png\nmixed,support,x,test/test-b/0.png\nmixed,query,x,test/test-a/1.png\n"
        "alone,support,x,test/test-a/0.png\nalone,query,x,test/test-a/0.png\n"
        "uneven,support,x,test/test-a/0.png\nuneven,query,x,test/test-a/1.png\n"
        "uneven,support,y,test/test-b/0.png\nuneven,support,y,test/test-b/3.png\n"
        "uneven,query,y,test/test-b/1.png\nuneven,query,y,test/test-b/2.png\n"
        "lacks,support,x,test/test-a/0.png\n"
    )
    with pytest.raises(MetabenchError) as error:
        make(tmp_path / "list.csv", task, text)
    said = str(error.value)
    for part in (
        "line 10: picture 'nowhere.png': no such file",
        "line 11: role='teacher'; must be support or query",
        "line 12: label empty",
        "line 13: picture 'train/train-a/0.png': is not of meta_test; it is of meta_train",
        "task 'mixed': support of label 'x' is of several classes: test-a, test-b",
        "task 'alone': has one label",
        "task 'alone': example 0 of 'test-a' stands in it twice",
        "task 'uneven': its labels have 1, 2 queries",
        "task 'uneven': 3 support pictures of 2 labels",
        "task 'lacks': label 'x' has no query picture",
    ):
        assert part in said


def test_a_table_without_the_columns_is_refused(tmp_path: Path, task: TaskConfig) -> None:
    (tmp_path / "list.csv").write_text("task,label,picture\n")
    with pytest.raises(MetabenchError, match="has no column role"):
        listed.of_file(tmp_path / "list.csv", data.load(task), "meta_test", task, [])


def test_arrays_are_named_by_the_numbers_of_their_rows(tmp_path: Path) -> None:
    labels = np.array([name for _ in range(4) for name in "abcdefghij"])
    images = np.arange(40, dtype=np.uint8)[:, None, None].repeat(12, 1).repeat(12, 2)
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    options = {"path": str(tmp_path / "own.npz"), "meta_train": 0.3, "meta_validation": 0.3}
    task = TaskConfig(dataset="array", options=options)
    x, y = data.load(task).meta_test.classes[:2]
    rows = {name: np.flatnonzero(labels == name).tolist() for name in (x, y)}
    text = "".join(
        f"{number},support,{name},{rows[name][number]}\n{number},query,{name},{rows[name][number + 1]}\n"
        for number in range(2)
        for name in (x, y)
    )
    tasks, splits = make(tmp_path / "list.csv", task, text)
    block = frozen.gather(splits.meta_test.images, tasks.groups[0].indices, tasks.groups[0].shape)
    expected = [[rows[x][n], rows[y][n]] for n in range(2)]
    assert (block.support.x[:, :, 0, 0, 0] * 255).round().int().tolist() == expected
    train = int(np.flatnonzero(labels == splits.meta_train.classes[0])[0])
    with pytest.raises(MetabenchError, match=rf"picture {train}: is not of meta_test; it is of meta_train"):
        make(tmp_path / "list.csv", task, text + f"0,support,{x},{train}\n")


def test_lakes_runs_are_read_as_they_are_packed(tmp_path: Path, task: TaskConfig) -> None:
    pictures = tmp_path / "pictures" / "test"
    with zipfile.ZipFile(tmp_path / "all_runs.zip", "w") as archive:
        for run, classes in (("run01", "abc"), ("run02", "cab")):
            answers = ""
            for number, name in enumerate(classes, 1):
                files = f"{run}/test/item0{number}.png", f"{run}/training/class0{number}.png"
                for file, picture in zip(files, ("1.png", "2.png"), strict=True):
                    archive.write(pictures / f"test-{name}" / picture, f"all_runs/{file}")
                answers += " ".join(files) + "\n"
            archive.writestr(f"all_runs/{run}/class_labels.txt", answers)
    splits = data.load(task)
    tasks, described = listed.of_file(tmp_path / "all_runs.zip", splits, "meta_test", task, [])
    assert (described.way, described.shot, described.test_query) == (3, 1, 1)
    (group,) = tasks.groups
    named = [[splits.meta_test.classes[row] for row in one] for one in group.indices.classes]
    assert named == [["test-a", "test-b", "test-c"], ["test-c", "test-a", "test-b"]]
    assert group.indices.examples.tolist() == [[[2, 1]] * 3] * 2


def test_a_run_is_tested_on_such_a_list(
    tmp_path: Path, task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "list.csv", task, BALANCED)
    shape = {"way": 2, "query": 1, "test_query": 1, "validation_tasks": 2, "tasks": 2, "network": "mlp"}
    run = mb.train(
        "nearest_mean", {"name": "folder", "options": task.options}, out=tmp_path / "run", quiet=True, **shape
    )
    tested = run.test(task_list=tmp_path / "list.safetensors", quiet=True)
    assert tested.record["tasks"] == 2
    assert tested.record["class_names"] == ("test-a", "test-b", "test-c")


def test_an_archive_without_answers_is_refused(tmp_path: Path, task: TaskConfig) -> None:
    with zipfile.ZipFile(tmp_path / "all_runs.zip", "w") as archive:
        archive.writestr("run01/test/item01.png", png(0))
    with pytest.raises(MetabenchError, match=r"holds no class_labels.txt; give a .csv file"):
        listed.of_file(tmp_path / "all_runs.zip", data.load(task), "meta_test", task, [])
