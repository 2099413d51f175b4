"""`metabench label` and `metabench.label`: what they leave, that they go on, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import metabench as mb
from metabench import data
from metabench.acquisition import rounds
from metabench.acquisition.config import LabelConfig, check
from metabench.cli import app
from metabench.storage import files
from metabench.training import run as runs
from tests.predict import trained
from tests.support import small

FEW: dict[str, Any] = {"pool": 4, "distractors": 2, "rounds": 2, "query": 2, "tasks": 5}
TYPED = [part for key, value in FEW.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train two runs on the same small data, and one on functions."""
    folder = tmp_path_factory.mktemp("runs")
    shape: dict[str, Any] = {"way": 3, "query": 2, "test_query": 3, "width": 4}
    budget: dict[str, Any] = {"tasks": 8, "reports": 1, "validation_tasks": 4, "quiet": True}
    with trained.quickly(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load", lambda task, root=None: small.splits(n_examples=12))
        for name in ("protonet", "snail"):
            mb.train(name, "glyphs", out=folder / name, **shape, **budget)
        patch.undo()
        functions = {"way": 1, "shot": 5, "query": 5, "network": "mlp", "width": 8, "norm": "none"}
        mb.train("maml", "sinusoid", out=folder / "functions", **functions, **budget)
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own, on the small data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "load", lambda task, root=None: small.splits(n_examples=12))


def label(*words: object) -> Any:
    return CliRunner().invoke(app, ["label", *map(str, words)])


def test_the_command_and_python_leave_the_same_and_go_on(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = label(folders["protonet"], "--acquire", "entropy,oracle", *TYPED, "--out", "typed", "--json")
    assert printed.exit_code == 0, (printed.output, printed.exception)
    labels = mb.label(folders["protonet"], ["entropy", "oracle"], out="called", quiet=True, **FEW)
    rows = json.loads(printed.stdout)["rows"]
    assert [row["acquire"] for row in rows] == [row["acquire"] for row in labels.rows]
    for name in ("scores.jsonl", "table.csv", "tasks.csv", "labels.png"):
        assert (Path("typed") / name).read_bytes() == (Path("called") / name).read_bytes()
    assert labels.record["labels"] == [3, 4, 5]
    assert labels.to_pandas().accuracy_5.tolist() == [row["accuracy_5"] for row in rows]
    before = files.read_lines(Path("called/scores.jsonl"))
    asked = []
    score = rounds.label

    def spied(model: Any, images: Any, tasks: Any, rules: Any, config: Any) -> Any:
        asked.extend(rules)
        return score(model, images, tasks, rules, config)

    monkeypatch.setattr(rounds, "label", spied)
    more = mb.label([folders["protonet"], folders["snail"]], ["k_centre"], out="called", quiet=True, **FEW)
    assert asked == ["k_centre", "random", "k_centre"]
    assert files.read_lines(Path("called/scores.jsonl"))[:3] == before
    assert len(more.rows) == 6


def test_gains_are_paired_over_tasks(folders: dict[str, Path]) -> None:
    labels = mb.label(folders["protonet"], ["k_centre"], out="labels", quiet=True, **FEW)
    by_name = {
        line["acquire"]: np.array(line["accuracy"]) for line in files.read_lines(Path("labels/scores.jsonl"))
    }
    row = next(row for row in labels.rows if row["acquire"] == "k_centre")
    apart = by_name["k_centre"] - by_name["random"]
    assert [gain.difference for gain in row["gain"]] == pytest.approx(apart.mean(0))
    assert row["area_gain"].difference == pytest.approx((apart[:, 1:] + apart[:, :-1]).mean() / 2)
    assert row["gain"][0][:3] == (0, 0, 0)


def test_what_was_opened_is_counted_with_the_tests(folders: dict[str, Path]) -> None:
    run = folders["snail"]
    before = max((one["times_opened"] for one in files.read_lines(run / files.LABELLED)), default=0)
    mb.label(run, ["random"], out="labels", quiet=True, **FEW)
    mb.label(run, ["random"], out="labels", quiet=True, **FEW)  # nothing is left to do
    mb.label(run, ["random"], out="others", quiet=True, part="meta_validation", **FEW)
    assert [one["times_opened"] for one in files.read_lines(run / files.LABELLED)][-1] == before + 1
    assert (
        runs.opened(run, small.splits(n_examples=12), small.splits(n_examples=12))["times_opened"]
        == before + 2
    )


def test_what_is_learnt_is_kept_beside_the_scores(folders: dict[str, Path]) -> None:
    few = {**FEW, "learn_tasks": 20}
    labels = mb.label(folders["protonet"], ["learned"], out="labels", quiet=True, **few)
    assert [path.suffix for path in Path("labels").glob("learned-*")] == [".safetensors"]
    Path("labels/scores.jsonl").unlink()
    again = mb.label(folders["protonet"], ["learned"], out="labels", quiet=True, **few)
    assert again.to_pandas().equals(labels.to_pandas())


def test_a_folder_of_other_tasks_is_not_written_to(folders: dict[str, Path]) -> None:
    mb.label(folders["protonet"], ["random"], out="labels", quiet=True, **FEW)
    before = {path.name: path.read_bytes() for path in Path("labels").iterdir()}
    with pytest.raises(mb.MetabenchError, match=r"labels: holds labels asked for otherwise \(config, labels"):
        mb.label(folders["protonet"], ["random"], out="labels", quiet=True, **{**FEW, "rounds": 1})
    assert {path.name: path.read_bytes() for path in Path("labels").iterdir()} == before


def test_scores_that_differ_before_the_first_label_are_refused(folders: dict[str, Path]) -> None:
    mb.label(folders["protonet"], ["margin"], out="labels", quiet=True, **FEW)
    first, second = files.read_lines(Path("labels/scores.jsonl"))
    second["accuracy"][0][0] += 0.1
    files.write_lines(Path("labels/scores.jsonl"), [first, second])
    with pytest.raises(mb.MetabenchError, match="differs from random before the first label"):
        mb.label(folders["protonet"], ["margin"], out="labels", quiet=True, **FEW)


REFUSED: dict[str, tuple[str, list[str], str]] = {
    "unknown": ("protonet", ["--acquire", "entrpy"], "acquire 'entrpy': unknown. Did you mean 'entropy'?"),
    "too many labels": (
        "protonet",
        ["--rounds", "10", "--batch", "5", "--pool", "5"],
        "--rounds=10, batch=5: 50 labels, the pool has 15; lower --rounds or --batch, or raise --pool",
    ),
    "no head": (
        "snail",
        ["--acquire", "badge"],
        "--acquire=badge: snail has no linear head or prototypes; take one of entropy, k_centre, learned",
    ),
    "nothing to be unsure with": (
        "protonet",
        ["--acquire", "entropy", "--start", "0"],
        "--acquire=entropy with start=0: nothing to be unsure with; raise --start, or take k_centre",
    ),
    "a pool that is too large": (
        "protonet",
        ["--pool", "30", "--query", "3"],
        "--pool=30: meta_test of small has 12 examples a class; start=1, query=3 leave 8; lower it",
    ),
    "too many distractors": (
        "protonet",
        ["--pool", "3", "--distractors", "4"],
        "way=3 and distractors=4: meta_test of small has only 6 classes; lower way or distractors",
    ),
    "a regression": ("functions", [], "sinusoid: is regression, where there are no labels to ask for"),
    "no round": (
        "protonet",
        ["--acquire", "learned", "--rounds", "0"],
        "rounds=0: nothing to learn; raise --rounds",
    ),
    "no accuracy": ("protonet", ["--reach", "90"], "--reach=90: must be > 0 and < 1, an accuracy"),
    "no run": ("nowhere", [], "is no run folder"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_one_message_before_anything_starts(folders: dict[str, Path], mistake: str) -> None:
    name, words, message = REFUSED[mistake]
    result = label(folders.get(name, Path(name)), "--pool", "4", "--query", "2", *words, "--out", "labels")
    assert result.exit_code == 2, (result.output, result.exception)
    assert message in result.stderr.replace("\n", " ")
    assert not list(Path().glob("labels/*.json*"))


def test_runs_of_other_ways_are_refused_together(folders: dict[str, Path]) -> None:
    with pytest.raises(mb.MetabenchError, match="functions: is of other data, ways, labels or domains than"):
        mb.label([folders["protonet"], folders["functions"]], quiet=True)


def described(**values: Any) -> Any:
    """Describe a run on tasks that have these settings."""
    config = small.config("protonet")
    return config.model_copy(update={"task": config.task.model_copy(update={"dataset": "glyphs", **values})})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": "fixed"}, r"^labels=fixed: .*; take runs with shuffled labels$"),
        ({"labelled": 0.4}, r"^acquire=learned: .* of which a sees a share, labelled=0.4; take other .*=1$"),
    ],
)
def test_runs_whose_labels_are_not_for_this_are_refused(values: dict[str, Any], message: str) -> None:
    check(LabelConfig(), ["learned"], {"a": described()})
    with pytest.raises(mb.MetabenchError, match=message):
        check(LabelConfig(), ["learned"], {"a": described(**values)})


def test_runs_of_other_labels_or_domains_are_refused_together() -> None:
    for values in ({"labels": "fixed"}, {"domains": "within"}):
        with pytest.raises(mb.MetabenchError, match=r"^b: is of other data, ways, labels or domains than"):
            check(LabelConfig(), ["random"], {"a": described(), "b": described(**values)})
