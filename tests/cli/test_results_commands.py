"""The commands that show results: what they print and write, and what they refuse, from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from metabench.cli import app
from metabench.storage import files
from tests.leaderboard.folders import finish, make_run, make_search

MEANS = {"maml": (0.7, 0.6), "fomaml": (0.65, 0.64)}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside a finished search, a run on the same tasks, and a search of another setting."""
    monkeypatch.chdir(tmp_path)
    finish(make_search(Path("search")), MEANS)
    make_run(Path("run"), "protonet", 0, 0.5)
    other = finish(make_search(Path("other")), {"maml": (0.8, 0.7), "fomaml": (0.85, 0.7)})
    record = files.read_json(other / files.SEARCH)
    record["space"]["task"]["shot"] = 5
    files.write_json(other / files.SEARCH, record)


def metabench(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def output(*args: object) -> str:
    result = metabench(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_a_comparison_is_a_sentence_or_json_with_the_same_in_it() -> None:
    sentence = output("compare", "search", "run")
    result = json.loads(output("compare", "search", "run", "--json"))
    assert result["sentence"] == sentence.strip()
    assert sentence.startswith("These networks, not their settings: maml:tuned (70.0%) is better")
    chosen = json.loads(output("compare", "search", "--rows", "fomaml:default, maml:default", "--json"))
    assert (chosen["a"]["name"], chosen["b"]["name"]) == ("fomaml:default", "maml:default")
    again = output("compare", "search", "--rows", "fomaml:default", "--rows", "maml:default", "--json")
    assert json.loads(again) == chosen


def test_columns_are_chosen_by_name() -> None:
    text = output(
        "leaderboard", "search", "--columns", "rank, p_holm", "--columns", "verdict", "--format", "md"
    )
    assert "| Algorithm | Setting | Rank | p (Holm) | Against the best |" in text
    assert "| fomaml | default | 3 | " in text


def test_settings_are_ranked_and_said() -> None:
    text = output("across", "search", "other")
    assert "maml:tuned" in text
    assert "2 settings: small, 5-way 1-shot; small, 5-way 5-shot." in text
    ranking = json.loads(output("across", "search", "other", "--json"))
    assert [row["mean_rank"] for row in ranking["rows"]] == [1.5, 1.5, 3.25, 3.75]  # a tie


def test_an_export_is_a_folder_that_pandas_reads() -> None:
    output("export", "search", "run", "--out", "tables")
    names = {path.name for path in Path("tables").iterdir()}
    tables = {
        f"{name}.{end}" for name in ("rows", "tasks", "trials", "comparisons") for end in ("csv", "parquet")
    }
    assert names == tables | {"leaderboard.json", "leaderboard.md", "leaderboard.tex"}
    tasks = pd.read_parquet("tables/tasks.parquet")
    board = json.loads(Path("tables/leaderboard.json").read_text())
    mean = tasks[(tasks.algorithm == "maml") & (tasks.variant == "tuned")].accuracy.mean()
    assert mean == pytest.approx(board["rows"][0]["accuracy"])


REFUSED = {
    "an unknown column": (["leaderboard", "search", "--columns", "rnak"], "Did you mean 'rank'?"),
    "columns of JSON": (["leaderboard", "search", "--columns", "rank", "--json"], "hold every column"),
    "other tasks": (["compare", "search", "other"], "shot: 1 in search; 5 in other"),
    "an unknown row": (
        ["compare", "search", "--rows", "maml:tuned,fomaml:tund"],
        "Did you mean 'fomaml:tuned'?",
    ),
    "one folder": (["compare", "search"], "--rows maml:tuned"),
    "one setting": (["across", "search"], "only one setting"),
    "a diagram of few settings": (["across", "search", "other", "--diagram", "cd.png"], "needs 8 settings"),
    "no folder": (["export", "absent", "--out", "tables"], "no such folder"),
    "no place to write": (["export", "search", "--out", "search/search.json/x"], "cannot write"),
    "no folder to write to": (["export", "search", "--to", "wandb"], "--out: give a folder"),
    "an unknown tool": (["export", "search", "--to", "neptune", "--out", "tables"], "neptune"),
    "a run as studies": (
        ["export", "run", "--to", "optuna", "--out", "tables"],
        "give the folder of a search",
    ),
    "an unknown format": (["leaderboard", "search", "--format", "latx"], "latx"),
}


@pytest.mark.parametrize(("arguments", "part"), REFUSED.values(), ids=REFUSED.keys())
def test_a_mistake_gets_one_message_and_exit_code_2(arguments: list[str], part: str) -> None:
    result = metabench(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert part in result.stderr
    assert not {"tables", "cd.png"} & {path.name for path in Path().iterdir()}


@pytest.mark.parametrize("tool", ["mlflow", "wandb"])
def test_a_tool_that_is_not_installed_is_named_with_what_installs_it(
    tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tool).mkdir()  # as W&B leaves where it has run: no package
    monkeypatch.setattr(sys, "path", [str(Path.cwd())])
    monkeypatch.delitem(sys.modules, tool, raising=False)
    result = metabench("export", "search", "--to", tool, "--out", "tables")
    assert result.exit_code == 2
    assert f"pip install 'metabench[{tool}]'" in result.stderr
    assert not Path("tables").exists()
