"""The package that the guide lays out is found by its entry points, and each mistake in one is told."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import metabench as mb
from metabench import algorithms, data, nets
from metabench.cli import app
from metabench.core import MetabenchError, plugins
from metabench.core.config import NetworkConfig, TaskConfig
from tests.docs.snippets import ROOT

BLOCK = re.compile(r"```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)```", re.DOTALL)
GUIDE = (ROOT / "docs/guides/extend.md").read_text()

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lay a package out with its entry points, as an installer does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    forget()

    def install(name: str, groups: dict[str, dict[str, str]], files: dict[str, str]) -> None:
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
        folder = tmp_path / f"{name.replace('-', '_')}-0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        text = ""
        for group, its in groups.items():
            text += "\n".join([f"[{group}]", *(f"{key} = {spec}" for key, spec in its.items()), ""])
        (folder / "entry_points.txt").write_text(text)
        forget()

    yield install
    monkeypatch.undo()
    forget()
    for name in [one for one in sys.modules if one.partition(".")[0] in ("my_package", "their_package")]:
        del sys.modules[name]


def forget() -> None:
    """Let the entry points be looked for anew."""
    for cached in (plugins.plugins, algorithms._names, algorithms._added):
        cached.cache_clear()


@pytest.fixture
def template(install: Install) -> None:
    """Lay out the guide's package."""
    files = dict(BLOCK.findall(GUIDE))
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    install(project["name"], project["entry-points"], {"my_package/__init__.py": "", **files})


@pytest.mark.usefixtures("template")
def test_the_guides_package_trains_its_learner_on_its_data_with_its_network() -> None:
    run = mb.train(
        "nearest_median", "blobs", network="wide_mlp", tasks=8, reports=1, validation_tasks=20, quiet=True
    )
    assert run.test(50, quiet=True).accuracy > 0.6, "five classes that lie apart"
    config = NetworkConfig(name="wide_mlp", width=8)
    assert nets.build(config, 5, (8,)).features == 32
    assert data.load(TaskConfig(dataset="blobs", options={"size": 3})).meta_train.images.shape[2:] == (3,)


@pytest.mark.usefixtures("template")
def test_listings_say_where_each_is_from() -> None:
    listed = json.loads(CliRunner().invoke(app, ["algorithms", "--json"]).stdout)
    assert {one["name"]: one["from"] for one in listed}["nearest_median"] == "my-package 0.1"
    assert {one["name"]: one["from"] for one in listed}["maml"] == "metabench"
    shown = CliRunner().invoke(app, ["datasets"]).stdout
    assert "blobs, of my-package 0.1" in shown
    assert "Classes of points around a centre each." in shown.replace("\n", " ")


CASES = [
    (
        "algorithms",
        "maml",
        "their_package:PART",
        "'maml': is in metabench and in their-package 0.1",
    ),
    ("algorithms", "theirs", "their_package:PART", "of their-package 0.1: is int; must be an Algorithm"),
    ("algorithms", "theirs", "their_pakage:PART", "no module 'their_pakage'. Did you mean 'their_package'?"),
    ("algorithms", "theirs", "their_package.raises:PART", "raised KeyError"),
    (
        "datasets",
        "glyphs",
        "their_package:PART",
        "'glyphs': is in metabench and in their-package 0.1",
    ),
    (
        "datasets",
        "theirs",
        "their_package:PART",
        "their-package 0.1: is int; must be a Dataset or a function",
    ),
    ("networks", "conv4", "their_package:PART", "network 'conv4': is in metabench and in their-package 0.1"),
    ("networks", "theirs", "their_package:PART", "of their-package 0.1: is int; must be a function"),
]


@pytest.mark.parametrize(("group", "name", "spec", "words"), CASES)
def test_each_mistake_of_a_package_is_told_when_it_is_used_and_breaks_no_listing(
    install: Install, group: str, name: str, spec: str, words: str
) -> None:
    files = {"their_package/__init__.py": "PART = 3\n", "their_package/raises.py": "raise KeyError('x')\n"}
    install("their-package", {f"metabench.{group}": {name: spec}}, files)
    use = {
        "algorithms": lambda: algorithms.get(name),
        "datasets": lambda: data.get(name),
        "networks": lambda: nets.build(NetworkConfig(name=name), 5, (1, 28, 28)),
    }
    with pytest.raises(MetabenchError) as caught:
        use[group]()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    if group != "networks":
        result = CliRunner().invoke(app, [group, *(["list"] if group == "datasets" else []), "--json"])
        assert result.exit_code == 0, result.output
        assert name not in {one["name"] for one in json.loads(result.stdout)}
        assert words.split(";")[0] in result.stderr.replace("\n", " ")


def test_two_packages_of_one_name_are_both_named(install: Install) -> None:
    for package in ("their-package", "my-package"):
        install(package, {"metabench.algorithms": {"theirs": f"{package.replace('-', '_')}:PART"}}, {})
    with pytest.raises(MetabenchError, match=r"my-package 0\.1 and in their-package 0\.1; rename"):
        algorithms.get("theirs")
