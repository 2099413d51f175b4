"""A run that was interrupted: where it goes on, and which of its processes may still write."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any, NamedTuple

import torch

from metabench.core import MetabenchError, Splits
from metabench.core.config import RunConfig
from metabench.storage import files, models, records, remote
from metabench.storage.files import Damaged
from metabench.training import loop
from metabench.training.loop import State

TURN = "turn.json"


class Superseded(MetabenchError):
    """Another process goes on with the run."""


class FencingToken:
    """The right to write in a run's folder, which is with the process that took it last.

    A process that was given up for dead may live: behind a network that is cut, or for the minute in which a
    worker looks for its cluster. It must not write between the lines of the one that took its place.
    """

    def __init__(self, folder: Path) -> None:
        """Take it."""
        self.path = folder / TURN
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        files.write_json(self.path, {"token": secrets.token_hex(8), **who})
        self._written = self.path.read_bytes()

    def is_valid(self) -> bool:
        """Tell whether no other process has taken it since."""
        return remote.read(self.path) == self._written

    def check(self) -> None:
        """Raise `Superseded` where another process has taken it since."""
        if not self.is_valid():
            raise Superseded(f"{self.path.parent}: another process goes on with this run")


class Resumed(NamedTuple):
    """Where an interrupted run goes on."""

    state: State | None  # None: at its start
    reports: list[dict[str, Any]]  # up to the state
    damaged: list[str]  # what was found that is not what was written


def resume(config: RunConfig, splits: Splits, folder: Path, device: torch.device | str = "cpu") -> Resumed:
    """Read the last state that is whole and the reports up to it; nothing is left of what came after it."""
    damaged = []
    try:
        reports = records.lines(folder / files.REPORTS, models.REPORT)
    except Damaged as error:
        reports, damaged = [], [error.problem]
    for name in loop.STATES:
        try:
            state = loop.load_state(folder / files.STATE, config, splits, device, name)
        except FileNotFoundError:
            continue
        except Damaged as error:
            damaged.append(error.problem)
            continue
        kept = [line for line in reports if line["tasks_seen"] <= state.tasks_seen]
        # A report for each rung up to the state, as another would be judged by nobody. The last is that of
        # the state, which one that diverged has between two rungs.
        expected = [*(rung for rung in config.rungs if rung < state.tasks_seen), state.tasks_seen]
        if [line["tasks_seen"] for line in kept] == expected:
            if kept != reports:
                files.write_lines(folder / files.REPORTS, kept)
            return Resumed(state, kept, damaged)
        damaged.append(f"{folder / files.REPORTS}: does not lead up to {name}")
    if (folder / files.STATE).exists():
        remote.remove(folder / files.STATE)
    if (folder / files.REPORTS).exists():
        files.write_lines(folder / files.REPORTS, [])
    return Resumed(None, [], damaged)
