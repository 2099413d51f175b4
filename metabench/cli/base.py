"""What the commands share: how mistakes and Ctrl-C end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from metabench.core import MetabenchError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


def guarded(stopped: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a user's mistake into one message and exit code 2, and Ctrl-C into a line and exit code 130.

    Args:
        stopped: what to say after Ctrl-C.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            try:
                command(*args, **kwargs)
            except MetabenchError as error:
                typer.echo(f"metabench: {error}", err=True)
                raise typer.Exit(2) from None
            except KeyboardInterrupt:
                typer.echo(f"\nmetabench: stopped. {stopped}".rstrip(), err=True)
                raise typer.Exit(130) from None

        return run

    return decorate
