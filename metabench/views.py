"""What shows results that are there: the leaderboard and TensorBoard, without waiting for torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

from metabench import board, storage, store
from metabench.core import MetabenchError

UNSEEN = (f"{store.TENSORBOARD}/", "trials/")
"""Where a search keeps what no table needs."""


def found(place: str) -> Path:
    """Return a folder by its path, or a copy of what is at an address, without what only workers need."""
    if not storage.is_url(place):
        return Path(place)
    folder = storage.work_in(storage.check_url(place), "viewed")
    storage.refresh(folder, skip=lambda name: name.startswith(UNSEEN) or f"/{store.STATE}/" in name)
    if not (folder / store.SEARCH).exists():
        raise MetabenchError(f"{place}: holds no search; give its address: --storage, a slash and --name")
    return folder


def leaderboard(folders: Sequence[str], form: str) -> None:
    """Print what the folders hold by now."""
    shown = board.FORMATS[form](board.leaderboard([found(folder) for folder in folders]))
    if form == "table":
        Console().print(shown)
    else:
        typer.echo(shown, nl=False)


def tensorboard(folder: str, port: int) -> None:
    """Run TensorBoard on a folder's events, in place of this process."""
    logs = f"{folder.rstrip('/')}/{store.TENSORBOARD}"
    if storage.is_url(folder):
        storage.check_url(folder)  # TensorBoard reads object storage itself
    elif not Path(logs).is_dir():
        raise MetabenchError(f"{folder}: has no TensorBoard events; give the folder of a search or a run")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logs]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    os.execv(sys.executable, command)  # becomes TensorBoard, so that Ctrl-C and kill reach it
