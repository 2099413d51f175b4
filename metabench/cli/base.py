"""What the commands share: how mistakes and Ctrl-C end."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from metabench.core import MetabenchError, signals
from metabench.core.signals import TRY_AGAIN, Interrupted

DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]

MostShots = Annotated[int | None, typer.Option(help="Unbalanced support: the most examples of a class.")]
Unlabelled = Annotated[int, typer.Option(help="Unlabelled images of each class of a task.")]
Distractors = Annotated[int, typer.Option(help="Other classes with unlabelled images.")]
Domains = Annotated[str, typer.Option(help="any, within or across: where classes come from.")]


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
                command(*args, **kwargs)
            except MetabenchError as error:
                typer.echo(f"metabench: {error}", err=True)
                raise typer.Exit(2) from None
            except OSError as error:
                if error.errno not in DISK_TROUBLE:
                    raise
                typer.echo(f"metabench: {error}; mend the disk, or make room. {stopped}".rstrip(), err=True)
                raise typer.Exit(2) from None
            except KeyboardInterrupt as stop:
                # Ray makes a plain one of what a signal raises while Ray waits.
                asked = str(stop) if isinstance(stop, Interrupted) else signals.asked()
                by = f" by {asked}" if asked else ""
                typer.echo(f"\nmetabench: stopped{by}. {stopped}".rstrip(), err=True)
                raise typer.Exit(TRY_AGAIN if asked else 130) from None

        return run

    return decorate
