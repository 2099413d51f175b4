"""Lists of frozen tasks: read back as they were drawn, and refused where anything about them is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from metabench import algorithms
from metabench.core import MetabenchError, Splits
from metabench.core.config import Between, TaskConfig
from metabench.data.tasks import frozen, sampling
from metabench.data.tasks.frozen import FrozenTasks
from metabench.storage import files
from metabench.training import run as runs
from tests.support import small

KINDS = {
    "plain": {},
    "ranges": {"way": Between(low=2, high=4), "shot": Between(low=1, high=2)},
    "unbalanced": {"shot": 2, "most_shots": 3},
    "unlabelled": {"unlabelled": 2, "distractors": 1},
}


def train(folder: Path, name: str) -> None:
    """Train a learner for a few steps, with those of its settings that a small run changes."""
    settings = {field.name for field in dataclasses.fields(algorithms.get(name).hparams)}
    config = small.config(name)
    few = {key: value for key, value in config.hyperparameters.items() if key in settings}
    runs.train_run(config.model_copy(update={"hyperparameters": few}), small.splits(), folder)


def write(path: Path, splits: Splits, task: TaskConfig = small.TASK, n_tasks: int = 20) -> FrozenTasks:
    tasks = frozen.frozen(splits, "meta_test", task, n_tasks, "test")
    frozen.write(path, splits, "meta_test", task, "test", tasks)
    return tasks


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> None:
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["metabench"])
    content = load_file(path) if tensors is None else tensors
    save_file(content, path, metadata={"metabench": json.dumps({**record, **changes})})


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_is_read_back_as_it_was_drawn(kind: str, tmp_path: Path) -> None:
    splits, path = small.splits(n_examples=8), tmp_path / "tasks.safetensors"
    drawn = write(path, splits, small.TASK.model_copy(update=KINDS[kind]))
    reread = frozen.read(path, splits, "meta_test")
    assert reread.hash == drawn.hash
    assert len(reread.groups) == len(drawn.groups)
    for mine, theirs in zip(reread.groups, drawn.groups, strict=True):
        assert mine.shape == theirs.shape
        assert torch.equal(mine.positions, theirs.positions)
        assert sampling.tensors(mine.indices).keys() == sampling.tensors(theirs.indices).keys()
        for name, index in sampling.tensors(theirs.indices).items():
            assert torch.equal(sampling.tensors(mine.indices)[name], index)


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    write(here, small.splits())
    code = (
        "import sys; from pathlib import Path; from tests.data.tasks import test_files as t;"
        "t.write(Path(sys.argv[1]), t.small.splits())"
    )
    subprocess.run([sys.executable, "-c", code, str(there)], check=True)
    assert here.read_bytes() == there.read_bytes()


def test_a_thousand_tasks_take_a_few_bytes_an_image(tmp_path: Path) -> None:
    path = tmp_path / "tasks.safetensors"
    write(path, small.splits(), n_tasks=1000)
    n_images = 1000 * small.TASK.ways[1] * (1 + small.TASK.test_query)
    assert path.stat().st_size < 6 * n_images + 2000


def test_what_is_wrong_with_a_list_is_told(tmp_path: Path) -> None:
    splits, path = small.splits(), tmp_path / "tasks.safetensors"

    def refusal(part: str = "meta_test", of: Splits = splits) -> str:
        with pytest.raises(MetabenchError) as caught:
            frozen.read(path, of, part)  # type: ignore[arg-type]
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "No such file" in refusal()
    path.write_text("no tensors")
    assert "is no list of tasks" in refusal()
    save_file({"a": torch.zeros(1)}, path)
    assert "is no list of tasks" in refusal()
    write(path, splits)
    assert "holds tasks of meta_test, not of meta_validation" in refusal("meta_validation")
    other = small.splits(n_examples=7)._replace(fingerprint="1" * 64)
    assert "whose meta_test differs; point METABENCH_DATA at" in refusal(of=other)
    elsewhere = splits._replace(meta_train=other.meta_train, fingerprint="1" * 64)
    assert frozen.read(path, elsewhere, "meta_test").hash == frozen.read(path, splits, "meta_test").hash
    whole = load_file(path)
    rewrite(path, format=99)
    assert "has format 99" in refusal()
    rewrite(path, {**whole, "0.examples": whole["0.examples"].flip(0)}, format=1)
    assert "changed or damaged" in refusal()
    rewrite(path, {**whole, "0.positions": whole["0.positions"].flip(0)})
    assert "changed or damaged" in refusal()  # another order would pair the differences of other tasks
    rewrite(path, {**whole, "0.examples": whole["0.examples"] + 100})
    assert "examples of group 0" in refusal()
    rewrite(path, {**whole, "0.spell": whole["0.examples"].clone()})
    assert "does not hold what it says" in refusal()
    rewrite(path, {"0.positions": whole["0.positions"]})
    assert "does not hold what it says" in refusal()


def test_a_run_tested_on_a_list_has_the_results_and_the_hash_of_its_own_drawing(tmp_path: Path) -> None:
    splits, path = small.splits(), tmp_path / "tasks.safetensors"
    folder, config = tmp_path / "run", small.config()
    runs.train_run(config, splits, folder)
    drawn = write(path, splits, config.task)
    usual = runs.test_run(folder, splits, 20)
    listed = runs.test_run(folder, splits, 5, tasks=frozen.read(path, splits, "meta_test"))
    assert listed["accuracy"] == usual["accuracy"]
    assert listed["tasks"] == 20
    assert listed["tasks_hash"] == usual["tasks_hash"] == drawn.hash
    assert files.read_json(folder / files.TEST)["times_opened"] == 2
    classes = [[int(row) for row in line.split()] for line in listed["classes"]]
    assert classes == drawn.groups[0].indices.classes.tolist()
    assert listed["class_names"] == splits.meta_test.classes
    assert listed["code"] == files.code_hash()
    assert {"commit", "versions", "config_hash", "opened"} <= listed.keys()


@pytest.mark.parametrize("name", ["maml", "fomaml", "boil", "snail"])
def test_tasks_of_more_ways_than_weights_hold_outputs_for_are_refused(tmp_path: Path, name: str) -> None:
    splits, path = small.splits(), tmp_path / "tasks.safetensors"
    train(tmp_path / "run", name)
    write(path, splits, small.TASK.model_copy(update={"way": 5}))
    with pytest.raises(MetabenchError, match=r"was trained for 3 ways, here are up to 5, and its weights"):
        runs.test_run(tmp_path / "run", splits, 20, tasks=frozen.read(path, splits, "meta_test"))


@pytest.mark.parametrize("name", ["protonet", "matching", "r2d2", "nearest_mean", "proto_maml", "finetune"])
def test_learners_without_outputs_for_each_way_are_tested_at_any_number_of_ways(
    tmp_path: Path, name: str
) -> None:
    """The weights trained for three ways score tasks of five as the same weights trained for five would."""
    splits, path = small.splits(), tmp_path / "tasks.safetensors"
    train(tmp_path / "run", name)
    write(path, splits, small.TASK.model_copy(update={"way": 5}))
    tasks = frozen.read(path, splits, "meta_test")
    result = runs.test_run(tmp_path / "run", splits, 20, tasks=tasks)
    assert all(len(line.split()) == 5 for line in result["classes"])
    record = files.read_json(tmp_path / "run" / files.CONFIG)
    record["run"]["task"]["way"] = 5
    files.write_json(tmp_path / "run" / files.CONFIG, record)
    assert runs.test_run(tmp_path / "run", splits, 20, tasks=tasks)["accuracy"] == result["accuracy"]


def test_a_run_is_tested_on_other_data_under_a_name_of_its_own(tmp_path: Path) -> None:
    splits, folder = small.splits(), tmp_path / "run"
    runs.train_run(small.config(), splits, folder)
    runs.test_run(folder, splits, 20)
    before = (folder / files.TEST).read_bytes()
    images = splits.meta_train.images
    other = splits._replace(
        name="other/half", meta_test=splits.meta_test._replace(images=images), fingerprint="1" * 64
    )
    result = runs.test_run(folder, splits, 20, other=other)
    assert result["data"] == "other/half"
    assert result["times_opened"] == 1, "of those data"
    assert runs.test_run(folder, splits, 20, other=other)["times_opened"] == 2
    assert (folder / files.TEST).read_bytes() == before
    name = f"test-other-half-{result['tasks_hash'][:12]}.json"
    assert files.read_json(folder / name)["accuracy"] == result["accuracy"]
    assert sorted(path.name for path in folder.glob("test*")) == sorted([name, files.TEST])
    with pytest.raises(MetabenchError, match="takes inputs of 1x16x16, and those of small are 1x8x8"):
        runs.test_run(folder, splits, 20, other=small.splits(8)._replace(fingerprint="2" * 64))
    with pytest.raises(MetabenchError, match="was trained for classification, and sinusoid"):
        runs.test_run(folder, splits, 20, other=small.sinusoids())


def test_other_tasks_leave_the_result_of_the_runs_own_alone(tmp_path: Path) -> None:
    splits, path = small.splits(), tmp_path / "tasks.safetensors"
    folder = tmp_path / "run"
    runs.train_run(small.config(), splits, folder)
    runs.test_run(folder, splits, 20)
    before = (folder / files.TEST).read_bytes()
    drawn = write(path, splits, small.TASK.model_copy(update={"way": 2}))
    result = runs.test_run(folder, splits, 20, tasks=frozen.read(path, splits, "meta_test"))
    assert (folder / files.TEST).read_bytes() == before
    assert files.read_json(folder / f"test-{drawn.hash[:12]}.json")["accuracy"] == result["accuracy"]
    assert result["times_opened"] == 2
