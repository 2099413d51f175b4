"""Where a relative path leads: from here, from beside the file that names it, or from METABENCH_DATA."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from metabench import data
from metabench.cli.flags import describe_run
from metabench.core import MetabenchError
from metabench.core.config import TaskConfig
from metabench.search import space as spaces


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in ("here", "beside", "root")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.chdir(folders["here"])
    monkeypatch.setenv("METABENCH_DATA", str(folders["root"]))
    return folders


def load(folder: Path, dataset: str, **options: str) -> TaskConfig:
    path = folder / "space.yaml"
    task = {"dataset": dataset, "options": options}
    budget = {"tasks": 90, "trials": 3, "grace": 10}
    path.write_text(yaml.safe_dump({"task": task, "budget": budget, "algorithms": {"maml": {}}}))
    return spaces.load(path).task


def test_a_path_is_looked_for_here_then_beside_the_space_then_under_the_root(
    folders: dict[str, Path],
) -> None:
    for name, folder in reversed(folders.items()):
        assert load(folders["beside"], "folder", path="mine").options["path"] != str(folder / "mine")
        (folder / "mine").mkdir()
        expected = "mine" if name == "root" else str(folder / "mine")
        assert load(folders["beside"], "folder", path="mine").options == {"path": expected}


def test_an_absolute_path_and_one_that_is_nowhere_stay_as_they_are(folders: dict[str, Path]) -> None:
    for path in ("/nowhere/mine", "mine"):
        assert load(folders["beside"], "array", path=path).options == {"path": path}


def test_what_lies_under_the_root_stays_relative_even_from_there(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders["root"] / "mine").mkdir()
    monkeypatch.chdir(folders["root"])
    assert load(folders["beside"], "folder", path="mine").options == {"path": "mine"}


def test_the_parts_of_a_mixture_are_looked_for_as_well(folders: dict[str, Path]) -> None:
    (folders["beside"] / "mine").mkdir()
    options = load(folders["beside"], "mixture", of="glyphs + 2*folder?path=mine&size=28").options
    assert options == {"of": f"glyphs + 2*folder?path={folders['beside'] / 'mine'}&size=28"}


def test_a_path_that_is_typed_is_looked_for_here(folders: dict[str, Path]) -> None:
    (folders["here"] / "mine").mkdir()
    config = describe_run(
        {"dataset": "folder", "options": ["path=mine"]}, {}, {"algorithm": "maml"}, [], None
    )
    assert config.task.options["path"] == str(folders["here"] / "mine")


def test_a_path_that_is_nowhere_is_told_with_all_places(folders: dict[str, Path]) -> None:
    with pytest.raises(MetabenchError) as caught:
        data.load(TaskConfig(dataset="folder", options={"path": "mine"}))
    assert "path='mine': no such file or folder" in str(caught.value)
    for name in ("here", "root"):
        assert str(folders[name] / "mine") in str(caught.value)
