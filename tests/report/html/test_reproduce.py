"""What a report says to run again describes the very same search or run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from metabench import PROTOCOL
from metabench.cli import app, run
from metabench.core.config import RunConfig, SearchSpace
from metabench.leaderboard.folders import Run, Search
from metabench.report.html import reading, reproduce
from metabench.search import space as spaces
from metabench.storage import files
from metabench.training import run as runs
from tests.report.conftest import Written
from tests.support import small

SPACES = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))

RUNS: list[dict[str, Any]] = [
    {},
    {"algorithm": "maml_pp", "hyperparameters": {"inner_lr": 0.1 + 0.2, "multi_step_loss": False}},
    {"task": {"dataset": "glyphs", "way": {"low": 3, "high": 8}, "shot": {"low": 1, "high": 4}, "query": 7}},
    {"task": {"dataset": "folder", "options": {"path": "my images/it's", "size": 84}, "way": 3, "shot": 2}},
    {"task": {"dataset": "glyphs", "augment": {"flip": True, "rotate": 30.0, "padding": "border"}}},
    {"task": {"dataset": "glyphs", "shot": 2, "most_shots": 4, "unlabelled": 2, "distractors": 1}},
    {"network": {"name": "resnet12", "width": 8, "norm": "group", "groups": 2, "readout": "mean"}},
    {
        "task": {"dataset": "sinusoid", "way": 1, "shot": 10},
        "network": {"name": "mlp", "width": 40, "depth": 3, "norm": "none"},
    },
]


def described(changes: dict[str, Any], tasks: int = 1400) -> RunConfig:
    """Return a run as `metabench train` would describe it."""
    space = {"task": {"dataset": "glyphs"}, "budget": {"tasks": tasks, "trials": 1, "grace": 1}}
    space |= {"algorithms": {changes.get("algorithm", "maml"): {}}}
    space |= {key: changes[key] for key in ("task", "network") if key in changes}
    rungs = sorted({max(1, tasks * step // 7) for step in range(1, 8)})
    algorithm, values = changes.get("algorithm", "maml"), changes.get("hyperparameters", {})
    return spaces.run_config(SearchSpace.model_validate(space), algorithm, values, 3, rungs)


@pytest.mark.parametrize("tasks", [1400, 5])
@pytest.mark.parametrize("changes", RUNS, ids=lambda changes: "-".join(changes) or "plain")
def test_the_command_of_a_run_describes_the_same_run(
    changes: dict[str, Any], tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = described(changes, tasks)
    record = {"protocol": PROTOCOL, "data_fingerprint": "f" * 64, "run": wanted.model_dump(mode="json")}
    recipe = reproduce.of_run(Run(Path("runs/my run"), record, [], None))
    trained = []
    monkeypatch.setattr(run, "train", lambda config, *others: trained.append(config))
    monkeypatch.chdir(tmp_path)
    for name, text in recipe.files.items():
        Path(name).write_text(text)
    result = CliRunner().invoke(app, shlex.split(recipe.commands[-1])[1:])
    assert result.exit_code == 0, (recipe.commands, result.output)
    assert trained == [wanted]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_space_of_a_search_is_the_same_space(path: Path) -> None:
    space = SearchSpace.model_validate(yaml.safe_load(path.read_text()))
    config = {"space": space.model_dump(mode="json"), "seed": 0}
    (text,) = reproduce.of_search(
        Search(path.with_suffix(""), config, [], {}, {}, {}, {}, None, 0)
    ).files.values()
    assert SearchSpace.model_validate(yaml.safe_load(text)) == space


def test_a_search_says_its_command_versions_and_hashes(large: Written) -> None:
    (recipe,) = reproduce.recipes(reading.read([large.folder]))
    record = files.read_json(large.folder / files.SEARCH)
    words = shlex.split(recipe.commands[-1])
    assert words[:3] == ["metabench", "search", "five_hundred.yaml"]
    assert words[words.index("--out") + 1] == str(large.folder.parent)
    assert {record["data_fingerprint"], record["code"], "t" * 64} <= {value for _, value in recipe.facts}
    assert f"torch=={record['versions']['torch']}" in recipe.commands[-2]


def test_a_run_says_its_training_and_its_test(tmp_path: Path, quick: None) -> None:
    config = small.config(tasks=8, rungs=(4, 8))
    runs.train_run(config, small.splits(), tmp_path / "run")
    runs.test_run(tmp_path / "run", small.splits(), 6)
    (recipe,) = reproduce.recipes(reading.read([tmp_path / "run"]))
    train, test = map(shlex.split, recipe.commands[-2:])
    assert train == ["metabench", "train", "--config", "run.json", "--out", str(tmp_path / "run")]
    assert test == ["metabench", "test", str(tmp_path / "run"), "--tasks", "6"]
