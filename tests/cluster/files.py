"""What the tests of cluster/ share: the files, the pinned versions, and the commands to be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from metabench.cli import app

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"

PLANNED = {"--storage"}
"""Options of `metabench search` that these files use and that it may not have yet; each takes a value."""


def pinned(package: str) -> str:
    """Return the version of a package that was tested together with the others."""
    match = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert match, f"{package} is not in constraints.txt"
    return match[1]


def indented_lines(name: str = "README.md") -> list[str]:
    """Return the indented lines of a page: commands to type."""
    return [line.strip() for line in (CLUSTER / name).read_text().splitlines() if line.startswith("    ")]


def commands(line: str, program: str) -> Iterator[list[str]]:
    """Yield the calls of a program in a line, and in the quoted commands for other machines in it."""
    words = shlex.split(line)
    if words and words[0] == program:
        yield words[1:]
    for word in words:
        if word.startswith(f"{program} "):
            yield shlex.split(word)[1:]


def check_metabench(arguments: list[str]) -> dict[str, Any]:
    """Parse a command with the command line itself, which runs nothing, and return what it understood."""
    command: Any = typer.main.get_command(app)
    name, rest = "metabench", list(arguments)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    for option in PLANNED - options:
        while option in rest:
            del rest[rest.index(option) : rest.index(option) + 2]
    return command.make_context(name, rest).params
