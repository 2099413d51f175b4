"""A search, from a file or from Python: checked as `metabench search` checks it, run, and its board."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metabench.api.boards import Board
from metabench.api.runs import Place
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.core.config.documents import as_document
from metabench.search import space as spaces
from metabench.storage import files, remote


class Asked(NamedTuple):
    """A search that can be started."""

    space: SearchSpace
    out: Path
    name: str
    storage: str | None  # its address, where that is no path


def describe(
    space: Place | Mapping[str, Any],
    out: Path,
    name: str | None,
    storage: str | None,
    algorithms: Sequence[str] | None,
    budget: Mapping[str, Any],
    workers: int | None = None,
    address: str | None = None,
) -> Asked:
    """Check what a search is asked to be, before anything of it is started."""
    if isinstance(space, Mapping):
        read = spaces.check(as_document(space, "space"), "space")
        task = read.task
        usual = f"{task.dataset}_{task.way}w{task.shot}s"
    else:
        read, usual = spaces.load(Path(space)), Path(space).stem
    read = spaces.override(read, names=algorithms, **budget)
    name = usual if name is None else name
    files.check_name(name, "name")
    if workers is not None and address is None:
        raise MetabenchError(
            "`workers`: is for a cluster that grows; give its `address` too, or leave it out"
        )
    for library in ("ray", "optuna"):
        if importlib.util.find_spec(library) is None:
            raise MetabenchError(
                f"a search needs {library}, which is not installed; do: "
                "pip install 'ray[default,tune]' optuna"
            )
    if storage is None or remote.is_url(storage):
        return Asked(read, out, name, storage and remote.check_url(storage))
    return Asked(read, Path(storage), name, None)


def search(
    space: Place | Mapping[str, Any],
    out: Place = "runs",
    name: str | None = None,
    *,
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
    warm_start: str | None = None,
    seed: int = 0,
    quiet: bool = False,
    **budget: Any,
) -> Board:
    """Search each algorithm's hyperparameters with one budget, and rank the algorithms on meta-test.

    The same call goes on where one was stopped, and returns the board of what is finished.

    Args:
        space: file of the search space; or what stands in one, as dicts.
        out: folder that holds search folders.
        name: of the search folder; else the file's, or one of data, ways and shots.
        storage: s3://BUCKET/FOLDER or gs://...: keep search folders there; `out` holds a copy.
        algorithms: only these of the space's.
        address, workers: Ray cluster to join, else this machine; and how many nodes it may grow to.
        cpus: cores of this machine to use; all where it is not given.
        fetch: official, or a mirror's address: nodes that lack the data download them.
        resume: continue what is there, never, or insist.
        accept_changes: continue with a larger budget, more algorithms or another version, and record it.
        warm_start: folder of an earlier search: what it came to is used here.
        quiet: show no progress.
        budget: trials, tasks, sampler, scheduler, validation_tasks or seeds, in place of the space's.
    """
    asked = describe(space, Path(out), name, storage, algorithms, budget, workers, address)
    from metabench.search import search as run_search

    folder = run_search(
        asked.space,
        asked.out,
        asked.name,
        storage=asked.storage,
        address=address,
        workers=workers,
        resume=resume,
        accept=accept_changes,
        warm_start=warm_start,
        seed=seed,
        quiet=quiet,
        cpus=cpus,
        fetch=fetch,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
    )
    return Board([folder])
