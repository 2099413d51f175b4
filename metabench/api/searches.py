"""A search, from a file or from Python: checked as `metabench search` checks it, run, and its board."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from metabench.api.boards import Board
from metabench.api.runs import Place
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.core.config.documents import as_document
from metabench.search import space as spaces
from metabench.storage import files, remote


def place(
    out: Path, name: str, storage: str | None, workers: int | None, address: str | None
) -> tuple[Path, str | None]:
    """Return where search folders are kept, and at which address, if any; refuse a search that cannot start.

    Args:
        storage: an address, or a path in the place of `out`.
    """
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
    if storage is None:
        return out, None
    return (out, remote.check_url(storage)) if remote.is_url(storage) else (Path(storage), None)


def _read(space: Place | Mapping[str, Any]) -> tuple[SearchSpace, str]:
    """Return a search space, and the name that a search of it has unless it is given one."""
    if not isinstance(space, Mapping):
        return spaces.load(Path(space)), Path(space).stem
    read = spaces.check(as_document(space, "space"), "space")
    return read, f"{read.task.dataset}_{read.task.way}w{read.task.shot}s"


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
    described, usual = _read(space)
    described = spaces.override(described, names=algorithms, **budget)
    name = usual if name is None else name
    folder, url = place(Path(out), name, storage, workers, address)
    from metabench.search import search as run_search

    kept = run_search(
        described,
        folder,
        name,
        storage=url,
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
    return Board([kept])
