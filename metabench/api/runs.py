"""One run, trained and tested: what `metabench train` and `test` do, and what they return in Python."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from metabench import algorithms, data
from metabench.api import bar
from metabench.api.describe import describe_run, named
from metabench.api.results import Result
from metabench.core import MetabenchError, Splits, metrics
from metabench.core.config import (
    SEPARATE,
    NetworkConfig,
    RunConfig,
    TaskConfig,
    allowed,
    field_types,
    validated,
)
from metabench.core.config.documents import as_document
from metabench.core.device import pick
from metabench.core.metrics import Metric
from metabench.core.objectives import OBJECTIVES
from metabench.data.tasks import frozen
from metabench.storage import files
from metabench.training import features, loop
from metabench.training import run as runs

if TYPE_CHECKING:
    from pandas import DataFrame

    from metabench.predict import FewShotClassifier

Place = str | os.PathLike[str]

RENAMED = {
    "network": ("network", "name"),
    "network_options": ("network", "options"),
    "distort": ("task", "augment"),
}
"""Settings that are not called as the fields that they are, to a model and its field."""

SETTINGS = {
    **{name: ("task", name) for name in TaskConfig.model_fields if name not in ("dataset", "augment")},
    **{name: ("network", name) for name in NetworkConfig.model_fields if name not in ("name", "options")},
    **{name: ("run", name) for name in ("tasks", "validation_tasks", "seed")},
    **RENAMED,
}
"""Every setting of `train` but those of algorithms, to a model and its field."""


@dataclass(frozen=True)
class Run:
    """A run folder: what was trained, how it went, and what can be done with it."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    def __str__(self) -> str:
        """Return the folder, so that a run may stand where a path is asked for."""
        return str(self.folder)

    def __fspath__(self) -> str:
        """Return the folder, for the same reason."""
        return str(self.folder)

    @property
    def config(self) -> RunConfig:
        """Return all that the run's numbers depend on."""
        return runs.read_config(self.folder)

    @property
    def metric(self) -> Metric:
        """Return what its tasks are judged by."""
        return metrics.recorded(files.read_json(self.folder / files.CONFIG))

    @property
    def reports(self) -> DataFrame:
        """Return a row for each meta-validation: tasks seen, score, loss, seconds, memory."""
        import pandas as pd

        runs.read_config(self.folder)  # which refuses what is no run
        lines = files.read_lines(self.folder / files.REPORTS)
        return pd.DataFrame(lines or {"tasks_seen": []}).set_index("tasks_seen")

    def test(self, tasks: int = 1000, **options: Any) -> Result:
        """Score it on frozen meta-test tasks; see `metabench.test`."""
        return test(self, tasks, **options)

    def load(self, device: str = "cpu") -> FewShotClassifier:
        """Open it as a classifier of new classes; see `metabench.load`."""
        from metabench import predict

        return predict.load(self.folder, device=device)


def train(
    algorithm: str | None = None,
    dataset: Place | Mapping[str, Any] | None = None,
    *,
    out: Place | None = None,
    config: Place | Run | None = None,
    reports: int | None = None,
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train one algorithm into a run folder; the same call goes on where one was stopped.

    Args:
        algorithm: its name, such as maml_pp.
        dataset: name of a data set; or a folder or archive of pictures, class/picture.png; or a dict of its
            name and its options and split.
        out: run folder; named after the run, in `runs`, where it is not given.
        config: run folder, or its config.json: that run is trained again, but for what else is given.
        reports: meta-validations, evenly spaced.
        device: auto, cpu, cuda or cuda:1; auto takes a GPU where there is one.
        quiet: show no progress.
        settings: by name, of the task (way, shot, query, ...), the network (network, width, norm, ...), the
            run (tasks, validation_tasks, seed) and the algorithm, as `metabench train` and `metabench
            algorithms` have them; `distort`, `options` and `network_options` are dicts. What is
            not given has the same default as there.
    """
    recorded = None if config is None else runs.read_config(files.path_of(config, "config"))
    name = algorithm or (recorded.algorithm if recorded else "")
    parts = _by_model(name, settings)
    if dataset is not None:
        parts["task"] |= _dataset(dataset, parts["task"].get("options", {}))
    if algorithm is not None:
        parts["run"]["algorithm"] = algorithm
    with named():
        described = describe_run(**parts, n_reports=reports, recorded=recorded)
    console = bar.plain_console(quiet)
    place = None if out is None else files.path_of(out, "out")
    run = train_into(described, place, device, console, None if config is None else Path(config))
    last = files.read_lines(run.folder / files.REPORTS)[-1]
    if not last["finite"]:
        raise MetabenchError(
            f"{run.folder}: diverged after {last['tasks_seen']} tasks; lower the learning rates"
        )
    return run


def _by_model(algorithm: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort settings by the models that they are of, or refuse those that there are not."""
    its = [*field_types(algorithms.get(algorithm).hparams)] if algorithms.is_known(algorithm) else None
    parts: dict[str, dict[str, Any]] = {"task": {}, "network": {}, "run": {}, "settings": {}}
    wrong = []
    for name, value in settings.items():
        if name not in SETTINGS and its is not None and name not in its:
            wrong.append(f"{name}: unknown setting.{allowed(name, [*SETTINGS, *its])}")
        elif name in ("options", "network_options", "distort") and not isinstance(value, Mapping):
            wrong.append(f"{name}={value!r}: must be a dict of settings")
        else:
            part, field = SETTINGS.get(name, ("settings", name))
            parts[part][field] = as_document(value, name)
    if wrong:
        raise MetabenchError("\n".join(wrong))
    return parts


def _dataset(asked: Place | Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task that say which data are meant: by name, by a path, or by both."""
    if isinstance(asked, Mapping):
        fields = data.described(asked)
        return as_document({**fields, "options": {**fields.get("options", {}), **options}}, "dataset")
    place = asked if isinstance(asked, str) else str(files.path_of(asked, "dataset"))
    is_path = not isinstance(asked, str) or os.sep in place or os.path.exists(place)
    if data.canonical(place) in data.names() or not is_path:
        return {"dataset": place}
    return {"dataset": "folder", "options": {"path": place, **options}}


def load_splits(task: TaskConfig, network: NetworkConfig, console: Console) -> Splits:
    """Load what a network takes of a task's data set, and check that the task can be drawn from it."""
    with console.status(f"Reading {task.dataset}"):
        splits = data.load(task)
    data.check(task, splits)
    return features.embedded(splits, task, network, functools.partial(console.print, soft_wrap=True))


def _folder(config: RunConfig, out: Path | None) -> Path:
    """Return the folder of a run, or refuse it."""
    task = config.task
    name = f"{config.algorithm}-{data.file_name(task.dataset)}-{task.way}w{task.shot}s-seed{config.seed}"
    folder = out or Path("runs") / name
    files.check_name(folder.absolute().name, "out")
    if (inside := files.search_around(folder)) is not None:
        raise MetabenchError(f"`out` {folder}: lies in the search {inside}; choose a folder outside of it")
    files.check_writable(folder)
    return folder


def train_into(
    config: RunConfig,
    out: Path | None,
    device: str,
    console: Console,
    source: Path | None = None,
    profiled: contextlib.AbstractContextManager[Any] | None = None,
) -> Run:
    """Train into a run folder, or go on where it was stopped.

    Args:
        source: the run that is trained again; on its own task, data other than its are refused.
        profiled: entered around the training.
    """
    folder = _folder(config, out)
    chosen = pick(device)
    splits = load_splits(config.task, config.network, console)
    if source is not None and runs.read_config(source).task == config.task:
        runs.refuse_other_data(source, splits)
    loop.build(config, splits)  # what cannot be built leaves no folder
    metric = OBJECTIVES[splits.kind].metric
    with files.lock(folder):
        runs.claim(config, splits, folder)
        with (
            bar.train_progress(config.tasks, metric, console) as (progress, reported),
            profiled or contextlib.nullcontext(),
        ):
            runs.train_run(
                config,
                splits,
                folder,
                device=chosen,
                progress=progress,
                reported=reported,
                damaged=lambda problem: console.print(f"{problem}; trained again", soft_wrap=True),
            )
    return Run(folder)


def test(
    run: Run | Place,
    tasks: int = 1000,
    *,
    task_list: Place | None = None,
    dataset: Place | Mapping[str, Any] | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    unlabelled: int | None = None,
    distractors: int | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Result:
    """Adapt and predict on frozen meta-test tasks, and record that the meta-test split was opened.

    Args:
        tasks: how many.
        task_list: file of `metabench datasets tasks` with the tasks to take instead.
        dataset, split, options: other data to be tested on, as for `train`; of the run's own data set, what
            is not given stays as it was.
        unlabelled, distractors: others than the run's own tasks of meta-test have.
        device: auto, cpu, cuda or cuda:1; auto takes a GPU where there is one.
        quiet: show no progress.
    """
    asked: dict[str, Any] = {} if dataset is None else _dataset(dataset, options or {})
    asked |= {
        key: value
        for key, value in {"split": split, "options": options}.items()
        if value and key not in asked
    }
    beside = {"test_unlabelled": unlabelled, "test_distractors": distractors}
    asked |= {key: value for key, value in beside.items() if value is not None}
    place = None if task_list is None else files.path_of(task_list, "task_list")
    return score(files.path_of(run, "run"), tasks, place, asked, device, bar.plain_console(quiet))


def score(
    folder: Path,
    n_tasks: int,
    task_list: Path | None,
    asked: Mapping[str, Any],
    device: str,
    console: Console,
) -> Result:
    """Score a run on meta-test.

    Args:
        asked: fields of the task to be tested on, where they are not the run's own.
    """
    if n_tasks < 2:
        raise MetabenchError(f"tasks={n_tasks}: must be >= 2")
    config = runs.read_config(folder)
    files.check_writable(folder)
    chosen = pick(device)
    splits = load_splits(config.task, config.network, console)
    task, tested = config.task, splits
    with _as_asked():
        if asked:
            task = _other_task(config.task, asked)
            with console.status(f"Reading {task.dataset}"):
                tested = features.load(task, config.network)
        if task_list is None and tested.kind == splits.kind:
            data.check(task, tested, ["meta_test"])
    is_beside = any(key in asked for key in SEPARATE)
    if is_beside and algorithms.get(config.algorithm).taken is None:
        raise MetabenchError(
            f"{folder}: {config.algorithm} learns nothing from unlabelled images; leave their number out"
        )
    if task_list is None:
        listed = frozen.frozen(tested, "meta_test", task, n_tasks, "test") if is_beside else None
    elif is_beside:
        raise MetabenchError("`task_list`: says which unlabelled images there are; leave out the others")
    else:
        listed = frozen.read(task_list, tested, "meta_test")
    record = runs.test_run(folder, splits, n_tasks, chosen, listed, tested)
    return Result(OBJECTIVES[splits.kind].metric, record)


@contextlib.contextmanager
def _as_asked() -> Iterator[None]:
    """Name what a test may ask for as it does: without the word that tells a run's own settings apart."""
    try:
        yield
    except MetabenchError as error:
        raise MetabenchError(re.sub(r"\btest_(unlabelled|distractors)\b", r"\1", str(error))) from error


def _other_task(task: TaskConfig, asked: Mapping[str, Any]) -> TaskConfig:
    """Describe what a run is to be tested on; of its own data set, what is not asked for stays as it was."""
    name = data.canonical(asked.get("dataset") or task.dataset)
    before = task.model_dump(exclude_defaults=True)
    if data.get(name).name != task.dataset:
        before |= {"split": None, "options": {}}
    merged = {"options": {**before.get("options", {}), **asked.get("options", {})}}
    return validated(TaskConfig, {**before, **asked, "dataset": name, **merged})
