"""Boards and searches from Python: a space may be a dict, names are escaped, the same call goes on."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import metabench as mb
from metabench import search as package
from metabench.cli import app
from metabench.search import space as spaces
from metabench.search.stages import automatic as stage
from tests.leaderboard.folders import finish, make_run, make_search
from tests.predict import trained
from tests.search.conftest import SPACE
from tests.search.test_automatic import pictures


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder of its own."""
    monkeypatch.chdir(tmp_path)


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_board_is_that_of_the_command_as_text_table_and_html() -> None:
    folder = finish(make_search(Path("search")), {"maml": (0.7, 0.6), "fomaml": (0.7, 0.64)})
    board = mb.leaderboard(folder)
    printed = CliRunner().invoke(app, ["leaderboard", "search", "--format", "json"]).stdout
    assert board.record == json.loads(printed)
    assert board.answer in " ".join(repr(board).split())
    table = board.to_pandas()
    assert [*table.name] == [row["name"] for row in board.rows]
    assert table.accuracy.max() == max(row["accuracy"] for row in board.rows)
    page = Tags()
    page.feed(board._repr_html_())
    assert board.answer in page.text
    assert page.tags == {"p", "b", "br", "small", "table", "tr", "th", "td"}


def test_a_name_is_no_html() -> None:
    evil = "<script>alert('x')</script>&amp;"
    folder = finish(make_search(Path("search")), {"maml": (0.7, 0.6), "fomaml": (0.7, 0.64)})
    board = mb.leaderboard(folder)
    for row in board.record["rows"]:
        row["hardest"] = [[evil, 0.1, 10]]
        row["algorithm"] = evil
    board.record["task"]["dataset"] = evil
    board.record["answer"] = f"the best is {evil}"
    page = Tags()
    page.feed(board._repr_html_())
    assert "script" not in page.tags
    assert page.text.count(evil) >= 4


def test_the_best_row_is_what_is_loaded() -> None:
    trained.search(Path("search"), {"protonet": 0.5, "maml": 0.6})
    board = mb.leaderboard("search")
    assert board.best == board.load().members.row == mb.load("search").members.row == "maml:tuned"
    assert board.load("protonet:default").members.row == "protonet:default"
    several = mb.leaderboard("search", trained.run())
    with pytest.raises(mb.MetabenchError, match="the board is of several folders"):
        several.load()


def test_a_board_of_nothing_and_of_no_folder_is_refused() -> None:
    with pytest.raises(mb.MetabenchError, match="at least one folder"):
        mb.leaderboard()
    with pytest.raises(mb.MetabenchError, match="missing: no such folder"):
        mb.leaderboard("missing")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Take the place of the search itself, after all checks, and keep what it is asked for."""
    seen: dict[str, Any] = {}

    def search(space: Any, out: Path, name: str, **options: Any) -> Path:
        del options["terminal"]  # another object each time
        seen.update(space=space, out=out, name=name, **options)
        return make_run(out / name, "maml", 0, 0.5)

    monkeypatch.setattr(package, "search", search)
    return seen


def test_a_dict_is_the_space_that_a_file_of_it_is(asked: dict[str, Any]) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(SPACE))
    exact = {**SPACE, "task": {"dataset": "Glyphs"}, "algorithms": {**SPACE["algorithms"]}}
    exact["budget"] = {**SPACE["budget"], "trials": np.int64(9)}
    mb.search(exact)
    by_dict = dict(asked)
    mb.search("mine.yaml")
    assert by_dict["space"] == asked["space"] == spaces.load("mine.yaml")
    assert (by_dict["name"], asked["name"]) == ("glyphs_5w1s", "mine")
    assert {**by_dict, "name": "", "space": None} == {**asked, "name": "", "space": None}


def test_every_option_is_handed_over_as_by_the_command(asked: dict[str, Any]) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(SPACE))
    options = {"resume": "never", "warm_start": "x", "seed": 3, "quiet": True, "cpus_per_trial": 2}
    board = mb.search(
        Path("mine.yaml"), "here", algorithms=["MAML"], trials=2, accept_changes=True, **options
    )
    from_python = dict(asked)
    words = ["search", "mine.yaml", "--out", "here", "--algorithms", "MAML", "--trials", "2", "--quiet"]
    words += ["--resume", "never", "--warm-start", "x", "--seed", "3", "--cpus-per-trial", "2"]
    done = CliRunner().invoke(app, [*words, "--accept-changes"])
    assert done.exit_code == 0, done.output
    assert from_python == {**asked, "cpus": None}
    assert board.folder == Path("here/mine")
    assert [*asked["space"].algorithms] == ["maml"]


def test_a_folder_and_a_time_are_searched_as_by_the_command(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "LEAST", 0.05)
    monkeypatch.setattr(stage, "MOST", 0.05)
    pictures(Path("mine"), 12)
    mb.search("mine", time="30m", way=2, options={"size": 28}, algorithms=["protonet"], quiet=True)
    from_python = dict(asked)
    words = [
        "search",
        "mine",
        "--time",
        "30m",
        "--way",
        "2",
        "--option",
        "size=28",
        "--algorithms",
        "protonet",
    ]
    done = CliRunner().invoke(app, [*words, "--quiet"])
    assert done.exit_code == 0, done.output
    # These are of speeds that are measured.
    measured = {part: getattr(from_python["space"], part) for part in ("budget", "network", "shared")}
    assert from_python["space"] == asked["space"].model_copy(update=measured)
    assert from_python["timing"].seconds == asked["timing"].seconds == 1800
    assert (
        (from_python["out"], from_python["name"]) == (asked["out"], asked["name"]) == (Path("runs"), "mine")
    )


MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no file": ("missing.yaml", {}, "missing.yaml: no such file"),
    "an unknown key": ({**SPACE, "buget": 1}, {}, "buget: unknown key. Did you mean 'budget'?"),
    "several": ({"task": {"dataset": "x"}, "budget": {}}, {}, "budget.trials: missing"),
    "a key that is no word": ({**SPACE, 3: {}}, {}, "space: key 3 is no word"),
    "a value that no file has": ({**SPACE, "also": {1, 2}}, {}, "space.also: is of type set"),
    "a name": (SPACE, {"name": "a/b"}, "name=a/b: must be one plain name"),
    "the budget": (SPACE, {"trails": 3}, "trails: unknown key. Did you mean 'trials'?"),
    "workers": (SPACE, {"workers": 3}, "`workers`: is for a cluster that grows; give its `address` too"),
    "no algorithm of it": (SPACE, {"algorithms": ["mml"]}, "`algorithms` mml: not in this space."),
    "a time beside a space": (
        SPACE,
        {"time": "30m", "way": 5},
        "`time` and `way`: choose what stands in the",
    ),
    "no time": ("glyphs", {}, "glyphs: is a data set; say how long the search may take, such as `time`"),
    "a budget beside a time": ("glyphs", {"time": "30m", "trials": 3}, "`trials`: with `time` the budget is"),
    "no time at all": ("glyphs", {"time": "soon"}, "time=soon: must be a time such as 90s, 30m or 1h30m"),
    "an option": ("glyphs", {"time": "1m", "options": {"clases": 3}}, "options.clases: unknown setting."),
    "an address": (SPACE, {"storage": "s3://"}, "s3://"),
}


@pytest.mark.parametrize(("space", "options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message(space: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(mb.MetabenchError) as raised:
        mb.search(space, **options)
    assert message in str(raised.value)
    assert "--" not in str(raised.value)
    assert not Path("runs").exists()
