"""What the commands share: options, how results are printed, and how mistakes and Ctrl-C end."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from typer.models import ArgumentInfo

from metabench.core import MetabenchError, out_of_memory, printable, signals
from metabench.core.signals import TRY_AGAIN, Interrupted

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)

LONGEST = 200
"""Letters of a word that a message shows; of a longer one it shows the beginning and the end."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

Split = Annotated[str | None, typer.Option(help="Named split of the data set.")]
Options = Annotated[list[str] | None, typer.Option(help="key=value: a setting of the data set.")]


def parts(texts: list[str] | None) -> list[str]:
    """Return the names of an option that takes several, with commas or given again."""
    return [part.strip() for text in texts or [] for part in text.split(",")]


def print_json(value: Any, indent: int | None = 1) -> None:
    """Print a value as standard JSON; without an indent as one line."""
    from metabench.storage import files

    typer.echo(json.dumps(files.plain(value), indent=indent, allow_nan=False))


def bare_table(*names: str) -> Table:
    """Return a table without lines: names of its rows, and columns of numbers."""
    columns = (Column(name, justify="right" if place else "left") for place, name in enumerate(names))
    return Table(*columns, box=None, pad_edge=False)


def print_table(table: Table, *lines: str) -> None:
    """Print a table, and lines of words below it, as wide as they are."""
    console = Console()
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def with_flags(message: str, command: Callable[..., None]) -> str:
    """Write settings as the options of a command: those in `backquotes`, and a `name=` that begins a line.

    Messages of the library speak of settings; which of them can be typed, and how, is only known here.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    marks = {one.name.rstrip("_"): getattr(one.annotation, "__metadata__", ()) for one in parameters}
    options = {name for name, mark in marks.items() if not any(isinstance(one, ArgumentInfo) for one in mark)}

    def flag(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return f"--{name.replace('_', '-')}" if name in options else match[0]

    return re.sub(r"`(\w+)`|^(\w+)(?==)", flag, message, flags=re.MULTILINE)


def guarded(stopped: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a mistake into one message and exit code 2, Ctrl-C into 130, and a scheduler's signal into 75.

    Args:
        stopped: what to say after Ctrl-C.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                if stopped:
                    signals.listen()
                _refuse_addresses(kwargs)
                command(*args, **kwargs)
            except MetabenchError as error:
                raise _refused(with_flags(str(error), run)) from None
            except (MemoryError, RuntimeError) as error:
                if reason := out_of_memory(error):
                    raise _refused(with_flags(reason, run)) from None
                raise
            except BrokenPipeError:
                raise  # who reads what is printed has gone, which is no mistake
            except (OSError, UnicodeError) as error:
                raise _refused(_trouble(error, stopped)) from None
            except KeyboardInterrupt as stop:
                # Ray makes a plain one of what a signal raises while Ray waits.
                asked = str(stop) if isinstance(stop, Interrupted) else signals.received()
                by = f" by {asked}" if asked else ""
                with contextlib.suppress(OSError):  # the terminal may be gone
                    typer.echo(f"\nmetabench: stopped{by}. {stopped}".rstrip(), err=True)
                raise typer.Exit(TRY_AGAIN if asked else 130) from None

        return run

    return decorate


def _refuse_addresses(values: Mapping[str, Any]) -> None:
    """Refuse an address where a path is meant: it would become a folder of that name."""
    for name, value in values.items():
        if isinstance(value, Path) and re.match(r"\w+:/", str(value)):
            raise MetabenchError(
                f"`{name}` {value}: must be a path on this machine, and is an address; a search is kept in "
                "object storage by `search --storage`"
            )


def _trouble(error: OSError | UnicodeError, stopped: str) -> str:
    """Say what the system refuses, and what to do about it."""
    if isinstance(error, UnicodeError):
        return f"a text that must be UTF-8 is not: {error}; give another file, or set LC_ALL=C.UTF-8"
    if error.errno in DISK_TROUBLE:
        return f"{error}; free disk space, or repair the disk. {stopped}".rstrip()
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}; give another path, or let this user read and write there"


def _refused(message: str) -> typer.Exit:
    """Print a message in which nothing is too long, or moves the cursor, and return exit code 2."""
    short = re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:60]}...{word[0][-20:]}", message)
    typer.echo(f"metabench: {printable(short)}", err=True)
    return typer.Exit(2)
