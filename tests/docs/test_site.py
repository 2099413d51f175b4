"""The site: built without a warning, complete, and in need of nobody's network."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metabench import algorithms
from metabench.search import space as spaces
from tests.cli.test_cli import COMMANDS
from tests.docs.snippets import ROOT

NEEDED = ("sphinx", "myst_parser", "furo")

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the generator is not installed: pip install 'metabench[docs]'",
)


class Links(HTMLParser):
    """What a page asks a browser to load by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        if tag in ("script", "img", "iframe", "source"):
            self.loaded.append(attributes.get("src", ""))
        elif tag == "link" and attributes.get("rel") in ("stylesheet", "preload", "icon"):
            self.loaded.append(attributes.get("href", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site with warnings as errors."""
    out = tmp_path_factory.mktemp("site")
    how = ["--fail-on-warning", "--keep-going", "--fresh-env", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *how, str(ROOT / "docs"), str(out)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    return out


def test_every_page_is_built(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    assert pages
    assert not [page for page in pages if not (site / page).with_suffix(".html").exists()]


def test_no_page_is_taken_for_one_of_the_generators(site: Path) -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.read_text().startswith("# ")]
    for path in pages:
        title = path.read_text().splitlines()[0].removeprefix("# ")
        built = (site / path.relative_to(ROOT / "docs")).with_suffix(".html").read_text()
        assert f"<h1>{title}<" in built, path


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        links = Links()
        links.feed(page.read_text())
        assert not [link for link in links.loaded if link.startswith(("http:", "https:", "//"))], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


def test_the_commands_are_all_described(site: Path) -> None:
    page = (site / "reference" / "cli.html").read_text()
    assert not [name for name in COMMANDS if f"<h2>metabench {name}<" not in page]
    assert "--accept-changes" in page


def test_the_settings_of_every_algorithm_and_part_are_described(site: Path) -> None:
    page = (site / "reference" / "space.html").read_text()
    parts = [*algorithms.names(), *spaces.schema()["$defs"]]
    assert not [name for name in parts if f"<h3>{name}<" not in page]


def test_public_functions_are_described_with_their_fields(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text()
    for name in ("core.Algorithm", "training.run.train_run", "data.load", "search.search", "stats.paired"):
        assert f'id="metabench.{name}' in page, name
    assert "Alias for field" not in page
