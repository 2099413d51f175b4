"""Code of a user's own is found by `package.module:name`, and each mistake is one message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metabench.core import MetabenchError
from metabench.core.modules import load_object

SOURCES = {
    "__init__": "",
    "parts": "def make(): return 7\n\n\nSIZE = 3\n",
    "broken": "\n\nraise RuntimeError('no such disk')\n",
    "needy": "import there_is_no_such_library\n",
    "misspelt": "def make(:\n",
    "leaving": "import sys\n\nsys.exit(3)\n",
}


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package of a user's on the path."""
    folder = tmp_path / "somebodys_package"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [one for one in sys.modules if one.startswith("somebodys_package")]:
        del sys.modules[name]


def test_what_is_named_is_imported() -> None:
    assert load_object("somebodys_package.parts:make", "module")() == 7


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("somebodys_package.parts.make", ["must be package.module:name"]),
        ("somebodys_package/parts.py:make", ["must be package.module:name"]),
        (":make", ["must be package.module:name"]),
        (
            "somebodys_pakage.parts:make",
            ["no module 'somebodys_pakage'", "'somebodys_package'", "PYTHONPATH"],
        ),
        ("somebodys_package.part:make", ["no module 'somebodys_package.part'", "Did you mean 'parts'?"]),
        ("somebodys_package.parts.inner:make", ["somebodys_package.parts is a module, not a package"]),
        ("somebodys_package.parts:maker", ["has no 'maker'", "parts.py", "Did you mean 'make'?"]),
        ("somebodys_package.parts:SIZE", ["is int", "function or a class"]),
        ("somebodys_package.broken:make", ["RuntimeError: no such disk", "broken.py, line 3"]),
        ("somebodys_package.needy:make", ["No module named 'there_is_no_such_library'", "needy.py, line 1"]),
        ("somebodys_package.misspelt:make", ["SyntaxError", "misspelt.py, line 1"]),
        ("somebodys_package.leaving:make", ["SystemExit: 3", "leaving.py, line 3"]),
    ],
)
def test_each_mistake_is_one_line_that_names_the_setting(spec: str, words: list[str]) -> None:
    with pytest.raises(MetabenchError) as caught:
        load_object(spec, "network.module")
    assert "\n" not in str(caught.value)
    for word in [f"network.module={spec!r}: ", *words]:
        assert word in str(caught.value)
