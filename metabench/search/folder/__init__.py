"""The search folder: opened by one driver, started, or found to hold the very same search, or refused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from metabench import PROTOCOL, __version__, nets
from metabench.core import MetabenchError, Splits, utc_now
from metabench.core.config import Choices, Range, SearchSpace
from metabench.core.metrics import Metric
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.folder import changes
from metabench.search.journal.ledger import WORK
from metabench.search.propose import warm
from metabench.search.space import grid
from metabench.storage import files, models, records, remote
from metabench.storage.remote import lease
from metabench.storage.tensorboard import Events, tag

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
    elif _names(folder) - {files.LOCK, remote.ORIGIN}:
        origin = folder / remote.ORIGIN
        if (records.optional(origin, models.ORIGIN) or {}).get("url") != url:
            raise MetabenchError(
                f"{folder}: is there already and is no copy of {url}; choose another folder or name"
            )
    files.check_writable(folder)
    with files.lock(folder), contextlib.ExitStack() as stack:
        if url is not None:
            copy = remote.attach(folder, url)
            stack.callback(remote.detach, folder)
            stack.enter_context(lease.hold(copy, say))
            copy.fetch(skip=is_of_workers)
            check_resume(folder, resume)
        yield


def is_of_workers(name: str) -> bool:
    """Tell of a path in a search folder whether the workers need it and the driver does not."""
    return name.split("/", 1)[0] in (WORK, files.TENSORBOARD, files.RAY) or f"/{files.STATE}/" in name


def check_resume(folder: Path, resume: Resume, warm_start: str | None = None) -> None:
    """Refuse to overwrite, to continue nothing, or to start from nothing; touches no file."""
    if folder.exists() and not folder.is_dir():
        raise MetabenchError(f"{folder}: is a file; choose another name")
    is_search = (folder / files.SEARCH).exists()
    names = _names(folder)
    if resume == "must" and not is_search:
        raise MetabenchError(f"resume=must: {folder} holds no search to continue; check the folder's name")
    if resume == "never" and names - {files.LOCK, remote.ORIGIN}:
        raise MetabenchError(f"resume=never: {folder} is there already; choose another name or remove it")
    if not is_search and names - BEGINNINGS:
        listed = ", ".join(sorted(names - BEGINNINGS)[:5])
        raise MetabenchError(f"{folder}: holds something else than a search ({listed}); choose another name")
    if warm_start is not None and not is_search:
        warm.check(warm_start)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def create_or_resume(
    folder: Path,
    space: SearchSpace,
    splits: Splits,
    seed: int,
    accept: bool = False,
    warm_start: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    timing: Mapping[str, Any] | None = None,
) -> tuple[SearchSpace, bool]:
    """Record what is searched, before anything is, or refuse a folder that records something else.

    Args:
        accept: go on with a changed budget, another version, or more algorithms, and record that.
        warm_start: an earlier search, whose trials go into the record, so that it is read once.
        timing: of a search within a time, its seconds and the speeds by which its space was chosen.

    Returns:
        the space to search, and whether there was a search to continue.
    """
    record = _record(space, splits, seed, warm_start)
    if (folder / files.SEARCH).exists():
        return changes.reconcile(folder, space, record, accept, say), True
    objective = OBJECTIVES[splits.kind]
    record |= {"metric": objective.metric._asdict(), "created": utc_now().isoformat(timespec="seconds")}
    record |= {"planned": spaces.planned(space), "outside": [], **({"timing": timing} if timing else {})}
    if warm_start is not None:
        record["known"], notes = warm.read(warm_start, space, splits, objective)
        say("\n".join(notes))
    describe(folder, space, objective.metric)
    files.write_json(folder / files.SEARCH, {**record, **files.environment()})  # last: now there is one
    return space, False


def _record(space: SearchSpace, splits: Splits, seed: int, warm_start: str | None) -> dict[str, Any]:
    """Return what the numbers of a search depend on, and whoever goes on with it must agree to."""
    return {
        "protocol": PROTOCOL,
        "seed": seed,
        "data_fingerprint": splits.fingerprint,
        "version": __version__,
        "code": files.code_hash(),
        "warm_start": warm_start,
        "space": space.model_dump(mode="json"),
        **({"network_digest": digests} if (digests := _digests(space)) else {}),
    }


def _digests(space: SearchSpace) -> str:
    """Hash the torch modules among a space's networks, each with the weights that it starts from."""
    return " ".join(
        filter(None, map(nets.digest, (one.published for one in (space.network, *space.networks.values()))))
    )


def describe(folder: Path, space: SearchSpace, metric: Metric) -> None:
    """Write what is searched for people, and for TensorBoard, anew."""
    shutil.rmtree(folder / files.TENSORBOARD, ignore_errors=True)
    parameters = {algorithm: spaces.of(space, algorithm).parameters for algorithm in space.algorithms}
    text = yaml.safe_dump(document(space), sort_keys=False, allow_unicode=True)
    events = Events(folder / files.TENSORBOARD)
    events.hparams_root(parameters, [f"meta_test/{metric}", f"meta_validation/{metric}"])
    events.layout(_layout(metric))
    events.text("search", f"```yaml\n{text}```")
    events.text("run card", _card(space))
    events.close()
    files.write_text(folder / files.SPACE, text)


def document(space: SearchSpace) -> dict[str, Any]:
    """Return what a file of the space says: without what is shared and none of its algorithms has."""
    its = [spaces.of(space, algorithm).parameters for algorithm in space.algorithms]

    def is_sampled(name: str, value: Any) -> bool:
        sampled = (one[name] for one in its if isinstance(one.get(name), Range | Choices))
        return any(grid.place(parameter, value) is not None for parameter in sampled)

    shared = {name: value for name, value in space.shared.items() if any(name in one for one in its)}
    also = [{name: value for name, value in one.items() if is_sampled(name, value)} for one in space.also]
    kept = space.model_copy(update={"shared": shared, "also": [one for one in also if one]})
    return kept.model_dump(mode="json", exclude_none=True)


def _layout(metric: Metric) -> dict[str, dict[str, list[str] | tuple[str, str, str]]]:
    """Return the charts of TensorBoard's custom scalars: patterns of tags, or a value with its interval."""
    validation = tag(f"meta_validation/{metric}")

    def band(split: str) -> tuple[str, str, str]:
        value, low, high = (tag(f"{split}/{metric}{end}") for end in ("", "/low", "/high"))
        return value, low, high

    return {
        "result": {f"meta-test {metric} with its interval": band("meta_test")},
        "meta-validation": {
            f"{metric} with its interval": band("meta_validation"),
            "loss": [tag("meta_validation/loss")],
        },
        "search": {
            "best so far": [rf"{metric}/so_far/.*"],
            "trials": [r"trials/.*"],
            "trials at rungs": [r"rungs/.*"],
            "tasks spent": [r"spent/tasks/.*"],
        },
        "early stopping": {
            "score and cut-off": [validation, "stopping/cutoff"],
            "margin": ["stopping/margin"],
        },
        "learning rates": {"learned inner rates": [r"lr/inner/?.*"], "outer rate": [r"lr/outer/?.*"]},
    }


def _card(space: SearchSpace) -> str:
    """Describe a search for people: what is compared on what, with which budget, by which versions."""
    task, budget = space.task, space.budget
    environment = files.environment()
    rows = {
        "task": f"{task.way}-way {task.shot}-shot {task.dataset}",
        "network": f"{space.network.name}, width {space.network.width}, norm {space.network.norm}",
        **{f"network of .{label}": one.module or one.name for label, one in space.networks.items()},
        "algorithms": ", ".join(space.algorithms),
        "trials an algorithm": budget.trials,
        "tasks of a full run": budget.tasks,
        "rungs": ", ".join(map(str, spaces.rungs(budget))),
        "sampler, scheduler": f"{budget.sampler}, {budget.scheduler}",
        "seeds": budget.seeds,
        "meta-test tasks": budget.test_tasks,
        "protocol": PROTOCOL,
        "versions": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "commit, code": f"{environment['commit']}, {files.code_hash()}",
        "device": environment["device"],
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
