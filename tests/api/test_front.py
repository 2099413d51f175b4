"""What `import metabench` gives: quickly, and the same names in whatever order packages are imported."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer.main

import metabench as mb
from metabench import algorithms
from metabench.algorithms import get
from metabench.api import runs, searches
from metabench.cli import app
from metabench.core import MetabenchError
from metabench.core.config import BudgetConfig, field_types

HEAVY = ("torch", "numpy", "pandas", "pydantic", "rich", "ray", "optuna", "scipy", "typer", "inspect")

ORDERS = {
    "the package first": "import metabench.search; import metabench as mb",
    "the names first": "import metabench as mb; mb.search; import metabench.search",
    "a module of it first": "from metabench.search import space; import metabench as mb",
    "the name from": "from metabench import search; import metabench as mb; assert mb.search is search",
    "the function first": "import metabench as mb; mb.search.function; import metabench.search.space",
}


def in_python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; before = {*sys.modules}; begun = time.process_time(); import metabench;"
        "print(time.process_time() - begun, *({*sys.modules} - before))"
    )
    seconds, *modules = in_python(code).split()
    assert float(seconds) < 0.1
    assert not {name.split(".")[0] for name in modules} & {*HEAVY}


def test_a_package_can_be_called_in_any_order_of_imports() -> None:
    called = (
        "\nfrom metabench.search import space, search"
        "\nimport metabench.search.folder, metabench.search as package"
        "\nassert package is mb.search and callable(space.load) and search.__module__ == 'metabench.search'"
        "\ntry: mb.search('missing.yaml')"
        "\nexcept mb.MetabenchError as error: print(error)"
    )
    # Each in a process that has imported nothing of metabench, but what takes long.
    forked = (
        "import os, torch\nfor code in sys.argv[1:]:\n    if not os.fork():\n        exec(code)\n"
        "        sys.stdout.flush()\n        os._exit(0)\n    assert os.wait()[1] == 0, code"
    )
    said = in_python(f"import sys; {forked}", *(order + called for order in ORDERS.values()))
    assert [line.partition(";")[0] for line in said.splitlines()] == ["missing.yaml: no such file"] * 5


def test_a_board_is_called_and_imported_without_torch() -> None:
    code = (
        "import sys, metabench as mb"
        "\ntry: mb.leaderboard('missing')"
        "\nexcept mb.MetabenchError as error: print(error)"
        "\nfrom metabench.leaderboard import rows, leaderboard"
        "\nprint({'torch', 'optuna', 'ray', 'pandas'} & {*sys.modules})"
    )
    assert in_python(code).splitlines()[1:] == ["set()"]


def test_every_name_is_there_and_a_called_package_explains_itself() -> None:
    for name in (*mb.PACKAGES, *mb.NAMES):
        assert name in dir(mb)
        assert getattr(mb, name) is not None
    assert inspect.signature(mb.search) == inspect.signature(searches.search)
    assert "folders" in inspect.signature(mb.leaderboard).parameters
    assert pickle.loads(pickle.dumps(mb.search)) is mb.search
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = mb.serach


def options(command: str) -> dict[str, Any]:
    """Return the options of a command to their defaults, by their names in Python."""
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {
        one.opts[0].lstrip("-").replace("-", "_"): one.default for one in parameters if one.name != "help"
    }


ELSEWHERE = {
    "train": {"set", "option", "network_option", "profile", "json"},
    "test": {"option", "json"},
    "search": {"option", "plan", "json"},
}
"""Options that are not called so in Python, or are of what is printed."""


@pytest.mark.parametrize("command", ["train", "test", "search"])
def test_every_option_can_be_given_and_has_the_same_default(command: str) -> None:
    signature = inspect.signature(getattr(mb, command))
    settings = {"train": {*runs.SETTINGS}, "search": {*BudgetConfig.model_fields, *searches.CHOSEN}}.get(
        command, set()
    )
    typed = {name: value for name, value in options(command).items() if name not in ELSEWHERE[command]}
    named = {name: one for name, one in signature.parameters.items() if name in typed}
    assert set(typed) - settings == set(named) - settings
    for name, one in named.items():
        if one.default is not inspect.Parameter.empty:
            assert shown(one.default) == shown(typed[name]), name


def shown(default: Any) -> str:
    """Return a default as text; the command line has several for nothing."""
    return "" if default is None or default is False or default == () else str(default)


def test_no_setting_of_an_algorithm_is_called_as_another() -> None:
    of_algorithms = {name for one in algorithms.names() for name in field_types(get(one).hparams)}
    assert not of_algorithms & {*runs.SETTINGS, *inspect.signature(mb.train).parameters}


@pytest.mark.parametrize(
    ("call", "setting"),
    [
        (lambda: mb.train("maml", 5), "dataset"),
        (lambda: mb.train("maml", "glyphs", out=5), "out"),
        (lambda: mb.search(None), "space"),
        (lambda: mb.test(None), "run"),
        (lambda: mb.leaderboard(5), "folders"),
        (lambda: mb.predict.class_folders(None), "place"),
    ],
)
def test_what_is_no_path_is_refused_by_name(call: Callable[[], Any], setting: str) -> None:
    with pytest.raises(MetabenchError, match=f"`{setting}` (5|None): must be text or a Path"):
        call()
