"""A search of what a file, a folder or a dict says: checked as the command checks it, run, and its board."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import metabench.search as package
from metabench import data
from metabench.api import automatic
from metabench.api.boards import Board
from metabench.api.describe import named
from metabench.api.runs import Place
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.core.config.documents import as_document
from metabench.search import space as spaces
from metabench.search.progress.terminal import Terminal
from metabench.storage import files, remote

CHOSEN = ("way", "shot", "split", "options")
"""Settings of the task that may be given where a space is chosen within a time."""


class Asked(NamedTuple):
    """A search that can be started."""

    space: SearchSpace
    out: Path
    name: str
    options: dict[str, Any]  # of `metabench.search.search`
    is_timed: bool


def ask(
    space: Place | Mapping[str, Any],
    out: Path,
    name: str | None,
    storage: str | None,
    algorithms: Sequence[str] | None,
    budget: Mapping[str, Any],
    task: Mapping[str, Any],
    time: str | None,
    begun: float,
    options: Mapping[str, Any],
    say: Callable[[str], None],
) -> Asked:
    """Check what a search is asked to be, before anything of it is started.

    Args:
        storage: an address, or a path in the place of `out`.
        task: settings of it, where a space is chosen within a time that began at `begun`.
    """
    timed = automatic.read(space, time, budget, task, options)
    read = None if timed else _read(space, algorithms, budget)
    if name is None:
        name = _name(read) if read and isinstance(space, Mapping) else Path(str(space)).stem
        if timed is not None:  # a folder of pictures may be called anything, and be the one where one is
            name = re.sub(r"[^\w.-]+", "_", Path(os.path.abspath(str(space))).stem, flags=re.ASCII)
    files.check_name(name, "name")
    _refuse_missing(options)
    url = remote.check_url(storage) if storage is not None and remote.is_url(storage) else None
    out = Path(storage) if storage is not None and url is None else out
    asked = {**options, "storage": url}
    if timed is not None:
        read, asked["timing"] = automatic.choose(timed, algorithms, out / name, url, begun, options, say)
    assert read is not None
    return Asked(read, out, name, asked, timed is not None)


def _read(
    space: Place | Mapping[str, Any], algorithms: Sequence[str] | None, budget: Mapping[str, Any]
) -> SearchSpace:
    if isinstance(space, Mapping):
        read = spaces.check(as_document(space, "space"), "space")
    else:
        read = spaces.load(Path(space))
    return spaces.override(read, names=algorithms, **as_document(budget, "budget"))


def _name(space: SearchSpace) -> str:
    return f"{data.file_name(space.task.dataset)}_{space.task.way}w{space.task.shot}s"


def _refuse_missing(options: Mapping[str, Any]) -> None:
    """Refuse options, or a machine, with which no search can start."""
    if options["workers"] is not None and options["address"] is None:
        raise MetabenchError(
            "`workers`: is for a cluster that grows; give its `address` too, or leave it out"
        )
    for library in ("ray", "optuna"):
        if importlib.util.find_spec(library) is None:
            raise MetabenchError(
                f"a search needs {library}, which is not installed; do: "
                "pip install 'ray[default,tune]' optuna"
            )


def search(
    space: Place | Mapping[str, Any],
    out: Place = "runs",
    name: str | None = None,
    *,
    time: str | None = None,
    storage: str | None = None,
    algorithms: Sequence[str] | None = None,
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
    cpus_per_trial: int = 1,
    gpus_per_trial: float | None = None,
    fetch: str | None = None,
    resume: Literal["auto", "never", "must"] = "auto",
    accept_changes: bool = False,
    finish_now: bool = False,
    warm_start: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    **settings: Any,
) -> Board:
    """Search each algorithm's hyperparameters with one budget, and rank the algorithms on meta-test.

    The same call goes on where one was stopped, and returns the board of what is finished. Every setting has
    the default and the meaning that it has for `metabench search`.

    Args:
        space: file of the search space; what stands in one, as dicts; or, with `time`, a folder or archive of
            pictures in folders of classes, or a data set's name.
        out, name: folder that holds search folders, and the search's; else the file's name, or the data's.
        time: 90s, 30m or 1h: look at the data, measure speeds, choose a space, and be done by then.
        storage: s3://BUCKET/FOLDER or gs://...: keep search folders there; `out` holds a copy.
        cpus: cores of this machine to use; all where it is not given.
        settings: trials, tasks, sampler, scheduler, validation_tasks or seeds, in place of the space's; with
            `time` way, shot, split and options.
    """
    options: dict[str, Any] = {
        "address": address,
        "workers": workers,
        "cpus": cpus,
        "cpus_per_trial": cpus_per_trial,
    }
    options |= {"gpus_per_trial": gpus_per_trial, "fetch": fetch, "resume": resume, "seed": seed}
    options |= {"accept": accept_changes, "finish_now": finish_now, "warm_start": warm_start, "quiet": quiet}
    task = {key: as_document(value, key) for key, value in settings.items() if key in CHOSEN}
    budget = {key: value for key, value in settings.items() if key not in CHOSEN}
    place = files.path_of(out, "out")
    with Terminal(quiet) as terminal, named():
        begun, say = terminal.begun, terminal.say
        asked = ask(space, place, name, storage, algorithms, budget, task, time, begun, options, say)
        return Board([package.search(asked.space, asked.out, asked.name, **asked.options, terminal=terminal)])
