"""The commands and the code that the documents tell people to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer.main

from metabench.cli import app

ROOT = Path(__file__).parents[2]

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]

PROGRAMS = ("metabench", "make", "python", "mv")
"""What a line must begin with to be a command of ours, after variables that are set for it."""

COMMAND = re.compile(rf"(?:[A-Z_]+=\S* +)*(?:{'|'.join(PROGRAMS)}) ")
FENCE = re.compile(r"^\s*```+\s*\{?(\w*)\}?")
VARIABLE = re.compile(r"^[A-Z_]+=\S* ")
INLINE = re.compile(r"(?<!`)`(metabench [^`\n]+)`(?!`)")


class Command(NamedTuple):
    """One command, as a page has it."""

    page: str
    line: int
    text: str

    @property
    def words(self) -> list[str]:
        """Return the command's words, without variables before it and remarks behind it."""
        text = self.text
        while VARIABLE.match(text):
            text = text.split(" ", 1)[1].lstrip()
        return shlex.split(text, comments=True)


def lines(page: str) -> Iterator[tuple[int, str, str]]:
    """Yield each line of a page with its number and the language of the block it is in.

    A block that is indented by four spaces has no language and counts as `indented`; text has none.
    """
    language, before = "", ""
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        fence = FENCE.match(line)
        if fence:
            language = "" if language else fence[1] or "plain"
        elif language:
            yield number, language, line
        else:
            is_code = line.startswith("    ") and before in ("", "indented")
            yield number, "indented" if is_code else "", line
            before = "indented" if is_code else line.strip()


def commands(page: str) -> list[Command]:
    """List the commands in the blocks of a page; a line that ends in a backslash goes on in the next."""
    collected: list[Command] = []
    is_open = False
    for number, language, line in lines(page):
        text = line.strip().removeprefix("$ ")
        if is_open:
            collected[-1] = collected[-1]._replace(text=collected[-1].text + text.removesuffix("\\"))
        elif language in ("bash", "console", "indented") and COMMAND.match(text):
            collected.append(Command(page, number, text.removesuffix("\\")))
        else:
            continue
        is_open = text.endswith("\\")
    return collected


def mentioned(page: str) -> list[Command]:
    """List the commands of metabench in the text of a page; a name may stand for an argument there."""
    text = [(number, line) for number, language, line in lines(page) if not language]
    return [Command(page, number, command) for number, line in text for command in INLINE.findall(line)]


def blocks(page: str, language: str) -> list[str]:
    """List the blocks of a language in a page."""
    groups: list[list[str]] = []
    last = -1
    for number, tag, line in lines(page):
        if tag == language:
            if number != last + 1:
                groups.append([])
            groups[-1].append(line)
            last = number
    return ["\n".join(block) for block in groups]


def command_of(words: list[str]) -> tuple[str, Any, list[str]]:
    """Find which command of metabench is meant; return its name, itself, and its arguments."""
    command: Any = typer.main.get_command(app)
    name, rest = "", list(words[1:])
    while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"no command {rest[0]}"
        command = command.commands[rest[0]]
        name = f"{name} {rest.pop(0)}".strip()
    return name, command, rest


def parse(words: list[str]) -> dict[str, Any]:
    """Let the command line itself read a command, which runs nothing; return what it understood."""
    name, command, rest = command_of(words)
    return command.make_context(name, rest).params


def unknown_options(words: list[str]) -> list[str]:
    """List the options that a command does not have."""
    _, command, rest = command_of(words)
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return [word for word in rest if word.startswith("--") and word.split("=")[0] not in options]
