"""The search folder: opened by one driver, started, or found to hold the very same search, or refused."""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from metabench import PROTOCOL, __version__
from metabench.core import MetabenchError, Splits
from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.folder import changes
from metabench.search.journal.ledger import WORK
from metabench.search.progress import dashboard
from metabench.search.propose import warm
from metabench.storage import files, remote
from metabench.storage.remote import lease
from metabench.storage.tensorboard import Events

Resume = Literal["auto", "never", "must"]

BEGINNINGS = {files.LOCK, files.SPACE, files.TENSORBOARD, remote.ORIGIN}
"""What a search that was killed before its first record may have left."""


@contextlib.contextmanager
def opened(folder: Path, url: str | None, resume: Resume, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a search folder for this process alone; one in object storage is brought here first.

    Args:
        url: address that the folder is a copy of; None where it is kept on disk only.
    """
    if url is None:
        check_resume(folder, resume)
        files.check_writable(folder)
        with files.lock(folder):
            yield
        return
    _check_origin(folder, url)
    files.check_writable(folder)
    with files.lock(folder):
        copy = remote.attach(folder, url)
        try:
            with lease.hold(copy, say):
                copy.fetch(skip=is_of_workers)
                check_resume(folder, resume)
                yield
        finally:
            remote.detach(folder)


def is_of_workers(name: str) -> bool:
    """Tell of a path in a search folder whether the workers need it and the driver does not."""
    return name.split("/", 1)[0] in (WORK, files.TENSORBOARD, files.RAY) or f"/{files.STATE}/" in name


def check_resume(folder: Path, resume: Resume, warm_start: str | None = None) -> None:
    """Refuse to overwrite, to continue nothing, or to start from nothing; touches no file."""
    is_search = (folder / files.SEARCH).exists()
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not folder.is_dir():
        raise MetabenchError(f"{folder}: is a file; choose another --name")
    if resume == "must" and not is_search:
        raise MetabenchError(f"--resume must: {folder} holds no search to continue; check --out and --name")
    if resume == "never" and found - {files.LOCK, remote.ORIGIN}:
        raise MetabenchError(f"--resume never: {folder} is there already; choose another --name or remove it")
    if not is_search and found - BEGINNINGS:
        listed = ", ".join(sorted(found - BEGINNINGS)[:5])
        raise MetabenchError(
            f"{folder}: holds something else than a search ({listed}); choose another --name"
        )
    if warm_start is not None and not is_search:
        warm.check(warm_start)


def claim(
    folder: Path,
    space: SearchSpace,
    splits: Splits,
    seed: int,
    accept: bool = False,
    warm_start: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[SearchSpace, bool]:
    """Record what is searched, before anything is, or refuse a folder that records something else.

    Args:
        accept: go on with a changed budget, another version, or more algorithms, and record that.
        warm_start: an earlier search, of which what is known goes into the record, so that it is read once.

    Returns:
        the space to search, and whether there was a search to continue.
    """
    description = {
        "protocol": PROTOCOL,
        "seed": seed,
        "data_fingerprint": splits.fingerprint,
        "version": __version__,
        "code": files.code_hash(),
        "warm_start": warm_start,
        "space": space.model_dump(mode="json"),
    }
    if (folder / files.SEARCH).exists():
        return changes.settle(folder, space, description, accept), True
    known: dict[str, Any] = {}
    if warm_start is not None:
        known["known"], told = warm.read(warm_start, space, splits, OBJECTIVES[splits.kind])
        for line in told:
            say(line)
    root = folder / files.TENSORBOARD
    shutil.rmtree(root, ignore_errors=True)
    describe(folder, space, OBJECTIVES[splits.kind].metric)
    record = {**description, "created": now(), **files.environment(), **known}
    files.write_json(folder / files.SEARCH, record)  # last: from here on there is a search to continue
    return space, False


def describe(folder: Path, space: SearchSpace, metric: str) -> None:
    """Write what is searched for people, and for TensorBoard."""
    parameters = {algorithm: spaces.parameters(space, algorithm) for algorithm in space.algorithms}
    text = yaml.safe_dump(
        space.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
    )
    events = Events(folder / files.TENSORBOARD)
    events.hparams_root(parameters, [f"meta_validation/{metric}", "meta_validation/loss"])
    events.layout(dashboard.layout(metric))
    events.text("search", f"```yaml\n{text}```")
    events.text("run card", _card(space))
    events.close()
    files.write_text(folder / files.SPACE, text)


def _card(space: SearchSpace) -> str:
    """Describe a search for people: what is compared on what, with which budget, by which versions."""
    task, budget = space.task, space.budget
    known = files.environment()
    rows = {
        "task": f"{task.told_way}-way {task.told_shot}-shot {task.dataset}",
        "network": f"{space.network.name}, width {space.network.width}, norm {space.network.norm}",
        "algorithms": ", ".join(space.algorithms),
        "trials an algorithm": budget.trials,
        "tasks of a full run": budget.tasks,
        "rungs": ", ".join(map(str, spaces.rungs(budget))),
        "sampler, scheduler": f"{budget.sampler}, {budget.scheduler}",
        "seeds": budget.seeds,
        "meta-test tasks": budget.test_tasks,
        "protocol": PROTOCOL,
        "versions": ", ".join(f"{name} {version}" for name, version in known["versions"].items()),
        "commit, code": f"{known['commit']}, {files.code_hash()}",
        "device": known["device"],
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _check_origin(folder: Path, url: str) -> None:
    if not folder.is_dir() or not {path.name for path in folder.iterdir()} - {files.LOCK, remote.ORIGIN}:
        return
    origin: Any = None
    if (folder / remote.ORIGIN).exists():
        origin = files.read_json(folder / remote.ORIGIN).get("url")
    if origin != url:
        raise MetabenchError(
            f"{folder}: is there already and is no copy of {url}; choose another --out or --name"
        )
