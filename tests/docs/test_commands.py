"""Every command in the documents is run, or read by the program that it is for; none is left out."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metabench import algorithms, data
from metabench import search as searching
from metabench.cli import app
from metabench.cli import run as commands
from metabench.search import space as spaces
from tests.cli.test_cli import COMMANDS
from tests.docs import desk, snippets
from tests.docs.snippets import PAGES, ROOT, Command

READ_ONLY = {
    r"metabench datasets fetch ": "downloads",
    r"metabench datasets tasks .*--from": "needs tasks that somebody chose; tests/data/tasks makes some",
    r"metabench datasets \w+ cifar_fs": "needs data that are not built in",
    r"metabench (\w+) s3://": "needs a bucket; tests/storage and tests/search have one",
    r"metabench leaderboard runs/\w+ runs/": "needs two searches; one stands in for each here",
    r"metabench tensorboard ": "serves until it is stopped; tests/storage reads what it shows",
    r"metabench train .*--dataset mixture": "needs Omniglot and Quick, Draw!",
    r"python benchmarks/(?!reproduce\.py --list)": "takes from minutes to days",
}
"""Commands that are read by the real program and not run, and why."""

MY_IMAGES = {"README.md"}
"""Pages that take a folder of images for granted."""

ONCE = {"report", "export"}
"""Commands that are run once a session for each page's stand-in of a search is the same."""


class Understood(Exception):
    """A script has read its arguments."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare once what every page's folder is laid out with."""
    folder = tmp_path_factory.mktemp("kept")
    desk.small_spaces(folder / "search_spaces")
    with pytest.MonkeyPatch.context() as patch:
        desk.hurry(patch)
        desk.finished_search(folder / "runs" / "demo", folder / "search_spaces" / "demo.yaml")
    desk.letters(folder / desk.LETTERS)
    return folder


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Remember what was run once."""
    return set()


@pytest.fixture
def here(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Path:
    """Work in a folder of its own, where a search is the finished one."""
    desk.lay(tmp_path, kept)
    desk.hurry(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METABENCH_DATA", str(kept / "data"))
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(searching, "search", desk.stand_in(kept))
    return tmp_path


def reason_not_to_run(one: Command) -> str | None:
    """Return why a command is only read, or None."""
    text = shlex.join(one.words).replace("'", "")
    return next((why for pattern, why in READ_ONLY.items() if re.match(pattern, text)), None)


def adapted(words: list[str]) -> list[str]:
    """Return the words of a command that is over soon and needs nothing that is not here."""
    words = [desk.STAND_INS.get(word, os.path.expandvars(word)) for word in words]
    name = snippets.command_of(words)[0]
    is_timed = name == "search" and "--time" in words and "--algorithms" not in words
    return [*words, *(desk.TIMED if is_timed else desk.SMALLER.get(name, []))]


def run(one: Command, done: set[str]) -> None:
    """Run a command."""
    if one.words[0] == "metabench":
        words = adapted(one.words)
        name = snippets.command_of(words)[0]
        if name in ONCE and name in done:
            snippets.parse(words)
            return
        done.add(name)
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (one, result.output, result.exception)
    elif one.words[0] == "make":
        command = ["make", "--dry-run", "--directory", str(ROOT), *one.words[1:]]
        subprocess.run(command, check=True, capture_output=True)
    else:
        words = [os.path.expandvars(word) for word in one.words]
        words[:1] = [sys.executable] if words[0] == "python" else words[:1]
        subprocess.run(words, check=True, capture_output=True)


def read(one: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the program itself read a command's arguments, and check the names in them."""
    words = one.words
    if words[0] == "python":
        read_script(Path(words[1]), words[2:], monkeypatch)
        return
    understood = snippets.parse(words)
    name = snippets.command_of(words)[0]
    if name == "train":
        check_train(words, monkeypatch)
    elif name.startswith("datasets"):
        data.get(understood["name"])
    elif name == "search" and understood["time"] is None:
        spaces.load(ROOT / understood["space"])


def check_train(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Describe the run that a command asks for, without its data."""
    with monkeypatch.context() as patch:
        patch.setattr(commands, "train", lambda *arguments: None)
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)


def read_script(path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a script up to where it has read its arguments."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args: Any) -> None:
        parse_args(self, *args)
        raise Understood

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [str(path), *arguments])
        patch.syspath_prepend(str(ROOT / path.parent))
        with pytest.raises(Understood):
            runpy.run_path(str(ROOT / path), run_name="__main__")


@pytest.mark.parametrize("page", [page for page in PAGES if snippets.commands(page)])
def test_every_command_of_a_page_is_run_or_read(
    page: str, here: Path, kept: Path, done: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if page in MY_IMAGES:
        desk.my_images(here, kept)
    desk.my_space(here, snippets.blocks(page, "yaml"))
    for one in snippets.commands(page):
        if reason_not_to_run(one) is None:
            run(one, done)
        else:
            read(one, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/guides/resume.md", "docs/tutorial.md"])
def test_the_searches_of_a_page_are_run_by_ray(page: str, here: Path, kept: Path) -> None:
    shutil.rmtree(here / "runs")
    desk.my_images(here, kept)
    desk.my_space(here, snippets.blocks(page, "yaml"))
    for one in snippets.commands(page):
        if one.words[1] == "search" and not {"--plan", "--storage"} & set(one.words):
            words = [desk.EXTENDED.get(before, word) for before, word in itertools.pairwise(one.words)]
            command = [sys.executable, "-c", "from metabench.cli import main; main()", *words]
            ended = subprocess.run(command, capture_output=True, text=True)
            assert ended.returncode == 0, (one, ended.stderr)


@pytest.mark.parametrize("page", [page for page in PAGES if snippets.mentioned(page)])
def test_a_command_in_the_text_exists_and_has_its_options(page: str) -> None:
    assert not [
        (one, wrong) for one in snippets.mentioned(page) if (wrong := snippets.unknown_options(one.words))
    ]


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page: str, here: Path) -> None:
    for code in snippets.blocks(page, "python"):
        for large, small in {"400": "8", "200": "4", "100": "4", "width=16": "width=4"}.items():
            code = code.replace(large, small)
        exec(compile(code, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_spaces_are_spaces(page: str, tmp_path: Path) -> None:
    for text in snippets.blocks(page, "yaml"):
        (tmp_path / "space.yaml").write_text(text)
        learners = {row.partition(".")[0] for row in spaces.load(tmp_path / "space.yaml").algorithms}
        assert learners <= set(algorithms.names())


@pytest.mark.parametrize("page", PAGES)
def test_no_command_hides_within_a_line(page: str) -> None:
    names = "|".join(COMMANDS)
    seen = {one.line for one in snippets.commands(page)}
    code = [
        (number, line) for number, language, line in snippets.lines(page) if language and number not in seen
    ]
    assert not [place for place in code if re.search(rf"\bmetabench ({names})\b", place[1])]


@pytest.mark.parametrize("page", [page for page in PAGES if "/" not in page])
def test_links_of_pages_beside_the_site_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / page).read_text())
    inside = [link.split("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert not [link for link in inside if not (ROOT / page).parent.joinpath(link).exists()]


def test_every_reason_not_to_run_is_needed() -> None:
    texts = [shlex.join(one.words).replace("'", "") for page in PAGES for one in snippets.commands(page)]
    assert not [pattern for pattern in READ_ONLY if not any(re.match(pattern, text) for text in texts)]


def test_an_option_and_a_command_that_do_not_exist_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert snippets.unknown_options(["metabench", "search", "a.yaml", "--adress=auto"]) == ["--adress=auto"]
    with pytest.raises(AssertionError, match="no command serach"):
        snippets.parse(["metabench", "serach"])
    with pytest.raises(Exception, match="--adress"):
        snippets.parse(["metabench", "search", "a.yaml", "--adress", "auto"])
    with pytest.raises(AssertionError, match="protonett"):
        check_train(["metabench", "train", "--algorithm", "protonett", "--dataset", "glyphs"], monkeypatch)
