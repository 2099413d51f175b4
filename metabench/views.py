"""What shows results that are there: the leaderboard and TensorBoard, without waiting for torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from metabench import board, store
from metabench.core import MetabenchError


def leaderboard(folders: Sequence[Path], form: str) -> None:
    """Print what the folders hold by now."""
    shown = board.FORMATS[form](board.leaderboard(folders))
    if form == "table":
        Console().print(shown)
    else:
        typer.echo(shown, nl=False)


def tensorboard(folder: Path, port: int) -> None:
    """Run TensorBoard on a folder's events, in place of this process."""
    logs = folder / store.TENSORBOARD
    if not logs.is_dir():
        raise MetabenchError(f"{folder}: has no TensorBoard events; give the folder of a search or a run")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)  # becomes TensorBoard, so that Ctrl-C and kill reach it
