"""The data sets, one file each; the folder is the registry, and files that start with `_` are helpers."""

from __future__ import annotations

import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from metabench.core import MetabenchError, Split, Splits
from metabench.core.config import TaskConfig, nearest, setting_problem
from metabench.data import sets
from metabench.data.tasks import sampling


class Dataset(NamedTuple):
    """A data set: what it is, how it may be cut, and how its splits are loaded."""

    name: str
    summary: str
    size: str  # classes, examples and image shape, in words
    licence: str
    url: str
    citation: str
    splits: tuple[str, ...]  # named splits; the first is the default
    options: type  # frozen dataclass of settings
    load: Callable[[Path | None, str, Any], Splits]  # (root, split, options)
    is_here: Callable[[Path | None], bool]  # whether the files are under root
    kind: str = "classification"  # or "regression"
    has_namesakes: bool = True  # whether classes of one name in two domains are one class
    fetch: Callable[[Path, str, Any, Any], None] | None = None  # (root, split, options, _fetch.Order)
    # (root, split, options) -> the files and folders that loading reads, where they are there
    sources: Callable[[Path | None, str, Any], list[Path]] = lambda root, split, options: []


OFFICIAL = "official"
"""Stands for the address that a data set itself names."""

QUERIES = {"meta_train": "query", "meta_validation": "test_query", "meta_test": "test_query"}
"""Splits to the setting that says how many queries a class are drawn from them."""

SHAPES = {"classification": (1, 28, 28), "regression": (1,)}
"""Kinds of data set to what one input of them looks like, for checks before any file is read."""


def names() -> list[str]:
    """List the data sets by name."""
    return sorted(module.name for module in pkgutil.iter_modules(sets.__path__))


def get(name: str) -> Dataset:
    """Look a data set up."""
    if name not in names():
        hint = nearest(name, names())
        raise MetabenchError(f"dataset={name!r}: unknown.{hint} Allowed: {', '.join(names())}")
    return importlib.import_module(f"{sets.__name__}.{name}").DATASET


def default_root() -> Path | None:
    """Return the folder of downloaded data that METABENCH_DATA names, or None."""
    folder = os.environ.get("METABENCH_DATA")
    return Path(folder).expanduser() if folder else None


def configure(task: TaskConfig) -> tuple[Dataset, str, Any]:
    """Look up a task's data set, named split and options, without opening a file."""
    dataset = get(task.dataset)
    split = task.split or dataset.splits[0]
    problems = [setting_problem(dataset.options, name, value) for name, value in task.options.items()]
    wrong = [problem for problem in problems if problem]
    if split not in dataset.splits:
        hint = nearest(split, dataset.splits)
        wrong.insert(0, f"split={split!r}: unknown.{hint} Allowed: {', '.join(dataset.splits)}")
    if task.domains == "across" and not dataset.has_namesakes:
        wrong.append(
            "domains=across: classes that have the same name in two of its domains are not the same class; "
            "take any or within"
        )
    if wrong:
        raise MetabenchError("\n".join(f"dataset {dataset.name}: {line}" for line in wrong))
    return dataset, split, dataset.options(**task.options)


def load(task: TaskConfig, root: Path | None = None) -> Splits:
    """Load the splits that a task draws from.

    Args:
        root: folder of downloaded data; METABENCH_DATA where it is not given.
    """
    dataset, split, options = configure(task)
    return dataset.load(root or default_root(), split, options)


def obtain(task: TaskConfig, url: str) -> None:
    """Download what a task's splits need, unless it is here; one process of a machine at a time.

    Args:
        url: address of a mirror's folder of the files; `official` for where the data set comes from.
    """
    dataset, split, options = configure(task)
    if dataset.fetch is None:
        return
    root = default_root()
    if root is None:
        raise MetabenchError(f"{dataset.name}: METABENCH_DATA is not set; set it to the folder of the data")
    from metabench.data.reading import cache, fetch

    with cache.alone(f"fetch-{dataset.name}"):
        try:
            dataset.fetch(root, split, options, fetch.Order(url=None if url == OFFICIAL else url))
        except OSError as error:
            raise MetabenchError(f"{error.filename or root}: {error.strerror or error}") from error


def task_problems(task: TaskConfig, name: str, kind: str) -> list[str]:
    """Say what is wrong with a task for a data set of a kind, before its files are opened."""
    way = task.told_way
    if kind == "classification":
        if task.ways[0] >= 2:
            return []
        return [f"way={way}: {name} is classification; way must be >= 2"]
    wrong = []
    if task.ways != (1, 1):
        wrong.append(f"way={way}: {name} is regression, where a task is one function; set way to 1")
    usual = TaskConfig(dataset=name)
    wrong += [
        f"{key}={getattr(task, key)}: {name} is regression; this is for tasks of classes; leave it out"
        for key in ("most_shots", "unlabelled", "distractors", "domains")
        if getattr(task, key) != getattr(usual, key)
    ]
    if task.shots[0] != task.shots[1]:
        wrong.append(f"shot={task.told_shot}: {name} is regression; give one number of points")
    return wrong


def sources(task: TaskConfig, root: Path | None = None) -> list[Path]:
    """List the files and folders that the splits of a task are read from; none where they are computed."""
    dataset, split, options = configure(task)
    return dataset.sources(root or default_root(), split, options)


def check(task: TaskConfig, splits: Splits, parts: Iterable[str] = tuple(QUERIES)) -> None:
    """Refuse a task of the wrong shape, or one that needs more classes or examples than a split has.

    Args:
        parts: the splits that tasks are drawn from.
    """
    wrong = task_problems(task, splits.name, splits.kind)
    if wrong:
        raise MetabenchError("\n".join(wrong))
    (_, way), (_, shot) = task.ways, task.shots
    for split in parts:
        data, queries = getattr(splits, split), QUERIES[split]
        n_classes, n_examples = data.images.shape[:2]
        smallest = ""
        if data.counts is not None:
            n_examples = int(data.counts.min())
            smallest = f" in class {data.classes[int(data.counts.argmin())]!r}"
        if way + task.distractors > n_classes:
            more = f" and distractors={task.distractors}" if task.distractors else ""
            lower = "way or distractors" if task.distractors else "way"
            wrong.append(
                f"way={way}{more}: {split} of {splits.name} has only {n_classes} classes; lower {lower}"
            )
        needed = {"shot": shot, "most_shots": task.most_shots or 0, queries: getattr(task, queries)}
        needed |= {"unlabelled": task.unlabelled}
        if task.most_shots:
            del needed["shot"]
        asked = {key: number for key, number in needed.items() if number}
        if sum(asked.values()) > n_examples:
            told = " and ".join(f"{key}={number}" for key, number in asked.items())
            wrong.append(
                f"{told} need {sum(asked.values())} examples a class: "
                f"{split} of {splits.name} has only {n_examples}{smallest}; lower {' or '.join(asked)}"
            )
        if not wrong:
            wrong += _pool_problems(data, split, task)
    if wrong:
        raise MetabenchError("\n".join(wrong))


def _pool_problems(split: Split, part: str, task: TaskConfig) -> list[str]:
    try:
        sampling.pool(split, task)
    except MetabenchError as error:
        return [f"{part}: {error}"]
    return []


def make_splits(name: str, meta_train: Split, meta_validation: Split, meta_test: Split) -> Splits:
    """Put three splits together with the fingerprint of their names and bytes."""
    given = (meta_train, meta_validation, meta_test)
    # Contiguous, so that examples can be picked by one flat index without a copy of the whole.
    parts = [part._replace(images=part.images.contiguous()) for part in given]
    digest = hashlib.sha256(name.encode())
    for part in parts:
        listed = (tuple(part.images.shape), part.classes, part.domains)
        digest.update(repr(listed).encode())
        if part.counts is not None:
            digest.update(repr(part.counts.tolist()).encode())
        if part.weights is not None:
            digest.update(repr(part.weights.tolist()).encode())
        digest.update(part.images.numpy().data)
    return Splits(name, parts[0], parts[1], parts[2], digest.hexdigest())
