"""The data sets, one file in sets/ each; the folder is the registry."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metabench.core import GROUPED, MetabenchError, Split, Splits, plugins
from metabench.core.config import SEPARATE, TaskConfig, allowed, folded, setting_problem, settings
from metabench.core.modules import load_object
from metabench.data.tasks import sampling

if TYPE_CHECKING:
    from metabench.core.control import Environment
    from metabench.data.reading.fetch import Order
    from metabench.data.reading.saving import from_dataset as from_dataset
    from metabench.data.reading.saving import from_frame as from_frame


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
    is_available: Callable[[Path | None], bool] = lambda root: True  # whether the files are under root
    # options, which may be wrong -> classification, regression or control
    kind_of: Callable[[Mapping[str, Any]], str] = lambda options: "classification"
    # options, which may be wrong -> whether it is known of each example who is protected
    has_group: Callable[[Mapping[str, Any]], bool] = lambda options: False
    has_pictures: bool = True  # whether classes are of pictures, not of rows of numbers
    # whether its options `size` and, where it is there, `channels` say how pictures are made, and no more
    is_resizable: bool = False
    # options -> whether classes of one name in two domains are one class
    shares_classes_across_domains: Callable[[Any], bool] = lambda options: True
    fetch: Callable[[Path, str, Any, Order], None] | None = None  # (root, split, options, order)
    # (root, split, options) -> the files and folders that loading reads, where they are there
    sources: Callable[[Path | None, str, Any], list[Path]] = lambda root, split, options: []
    # (options, find) -> options whose relative paths were made what `find` makes of them
    anchor: Callable[[Mapping[str, Any], Callable[[str], str]], dict[str, Any]] = lambda options, find: dict(
        options
    )


OFFICIAL = "official"
"""Stands for the address that a data set itself names."""

QUERIES = {"meta_train": "query", "meta_validation": "test_query", "meta_test": "test_query"}
"""Splits to the setting that says how many queries a class are drawn from them."""


KINDS = ("classification", "regression", "control")

ONE = {"regression": "function", "control": "environment"}
"""What a task is of, where it is not of classes."""

MODULE = "module:"
"""What a data set's name begins with that a function of somebody's makes."""

SETS = Path(__file__).parent / "sets"
"""The folder of the data sets: a module each, or a file of YAML alone for a published split."""


def names() -> list[str]:
    """List the data sets by name, those that installed packages add among them."""
    return sorted({*built_in(), *plugins.plugins("dataset")})


@cache
def built_in() -> frozenset[str]:
    """Return the names of those that no other package makes."""
    return frozenset(path.stem for path in SETS.glob("[!_]*") if path.suffix in (".py", ".yaml"))


def canonical(name: str) -> str:
    """Return the registered name that is meant, such as mini_imagenet by mini-ImageNet, or it as it is."""
    return next((one for one in names() if folded(one) == folded(name)), name)


def get(name: str) -> Dataset:
    """Look a data set up; `module:package.module:make` is what that function makes."""
    name, ours = canonical(name), built_in()
    if name.startswith(MODULE):
        return _made_by(name, load_object(name.removeprefix(MODULE), "dataset"))
    if name not in names():
        raise MetabenchError(f"dataset={name!r}: unknown.{allowed(name, names())}")
    if problem := plugins.clash("dataset", name, name in ours):
        raise MetabenchError(problem)
    if name not in ours:
        loaded = plugins.load(
            "dataset", name, lambda one: callable(one) or isinstance(one, Dataset), "a Dataset or a function"
        )
        return loaded._replace(name=name) if isinstance(loaded, Dataset) else _made_by(name, loaded)
    if not (SETS / f"{name}.py").is_file():
        return importlib.import_module(f"{__name__}.sets._published").published(SETS / f"{name}.yaml")
    return importlib.import_module(f"{__name__}.sets.{name}").DATASET


def _made_by(name: str, make: Any) -> Dataset:
    return importlib.import_module(f"{__name__}.sets._module").of(name, make)


def described(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task that a dict of name, options and split, or of module and options, means."""
    if "module" in dataset:
        rest = {key: value for key, value in dataset.items() if key not in ("module", "options")}
        options = {**rest, **(dataset.get("options") or {})}
        return {"dataset": f"{MODULE}{dataset['module']}", "options": options}
    if unknown := [key for key in dataset if key not in ("name", "options", "split")]:
        raise MetabenchError(
            f"dataset: no {unknown[0]!r}; give a dict of name, options and split, or of module and options"
        )
    return {"dataset" if key == "name" else key: value for key, value in dataset.items()}


def __getattr__(name: str) -> Any:
    if name in ("from_dataset", "from_frame"):  # they import what only they need
        return getattr(importlib.import_module(f"{__name__}.reading.saving"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def outline(dataset: Dataset | None, options: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return the kind of a data set, and a shape as of its inputs, for checks before files are read."""
    kind = "classification" if dataset is None else dataset.kind_of(options)
    is_of_pictures = kind == "classification" and (dataset is None or dataset.has_pictures)
    return kind, (1, 28, 28) if is_of_pictures else (1,)


def kinds(dataset: Dataset, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kinds of learners that can learn a data set, before files are read."""
    return (dataset.kind_of(options), GROUPED) if dataset.has_group(options) else (dataset.kind_of(options),)


def file_name(dataset: str) -> str:
    """Return a data set's name as it may stand in that of a folder: without the colons of a module's."""
    return dataset.removeprefix(MODULE).replace(":", ".")


def default_root() -> Path | None:
    """Return the folder of downloaded data that METABENCH_DATA names, or None."""
    folder = os.environ.get("METABENCH_DATA")
    return Path(folder).expanduser() if folder else None


def anchored(name: str, options: Mapping[str, Any], beside: Path | None = None) -> dict[str, Any]:
    """Return a data set's options with paths that lead to the same place from wherever a run goes on.

    A relative path is looked for here, then beside the file that names it; what is in neither place stays
    relative, to METABENCH_DATA, which may be another folder on each machine.
    """

    def find(path: str) -> str:
        places = [folder.absolute() / os.path.expanduser(path) for folder in (Path.cwd(), beside) if folder]
        root = default_root()
        if (
            root is not None
            and os.path.exists(root / path)
            and any(map((root / path).samefile, filter(os.path.exists, places)))
        ):
            return path
        return next((str(place) for place in places if os.path.exists(place)), path)

    return get(name).anchor(options, find)


def configure(task: TaskConfig) -> tuple[Dataset, str, Any]:
    """Look up a task's data set, named split and options, without opening a file."""
    dataset = get(task.dataset)
    split = task.split or dataset.splits[0]
    wrong = []
    if split not in dataset.splits:
        wrong.append(f"split={split!r}: unknown.{allowed(split, dataset.splits)}")
    problems = (setting_problem(dataset.options, name, value) for name, value in task.options.items())
    wrong += filter(None, problems)
    options = None if wrong else dataset.options(**task.options)
    if options and task.domains == "across" and not dataset.shares_classes_across_domains(options):
        wrong.append(
            "domains=across: classes that have the same name in two of its domains are not the same class; "
            "take any or within"
        )
    if wrong:
        raise MetabenchError("\n".join(f"dataset {dataset.name}: {line}" for line in wrong))
    return dataset, split, options


def load(task: TaskConfig, root: Path | None = None) -> Splits:
    """Load the splits that a task draws from.

    Args:
        root: folder of downloaded data; METABENCH_DATA where it is not given.
    """
    dataset, split, options = configure(task)
    return dataset.load(root or default_root(), split, options)


def download(task: TaskConfig, url: str) -> None:
    """Download what a task's splits need, unless it is here; one process at a time.

    Args:
        url: address of a mirror's folder of the files; `official` for where the data set comes from.
    """
    dataset, split, options = configure(task)
    if dataset.fetch is None:
        return
    root = default_root()
    if root is None:
        raise MetabenchError(f"{dataset.name}: METABENCH_DATA is not set; set it to the folder of the data")
    from metabench.data.reading.fetch import Order

    try:
        dataset.fetch(root, split, options, Order(url=None if url == OFFICIAL else url))
    except OSError as error:
        raise MetabenchError(f"{error.filename or root}: {error.strerror or error}") from error


def task_problems(task: TaskConfig, name: str, kind: str) -> list[str]:
    """Say what is wrong with a task for a data set of a kind, before its files are opened."""
    if kind == "classification":
        if task.ways[0] >= 2:
            return []
        return [f"way={task.way}: {name} is classification; way must be >= 2"]
    wrong = []
    if task.ways != (1, 1):
        wrong.append(f"way={task.way}: {name} is {kind}, where a task is one {ONE[kind]}; set way to 1")
    usual = TaskConfig(dataset=name)
    of_classes = ("most_shots", "unlabelled", "distractors", *SEPARATE, "domains", "labels")
    if kind == "control":
        of_classes += ("labelled",)
    wrong += [
        f"{key}={getattr(task, key)}: {name} is {kind}; this is for tasks of classes; leave it out"
        for key in of_classes
        if getattr(task, key) != getattr(usual, key)
    ]
    if task.shots[0] != task.shots[1]:
        wrong.append(f"shot={task.shot}: {name} is {kind}; give one number")
    return wrong


def n_folds(task: TaskConfig) -> int:
    """Return over how many cuts of the same pictures a task is cross-validated; 1: there is one."""
    return settings.n_folds(task.options)


def of_fold(task: TaskConfig, k: int) -> TaskConfig:
    """Return a task on the cut of the k-th run, which take the folds in turn."""
    if n_folds(task) == 1:
        return task
    return task.model_copy(update={"options": {**task.options, "fold": k % n_folds(task)}})


def cuts(task: TaskConfig, splits: Splits) -> list[tuple[TaskConfig, Splits]]:
    """Return a task and its data on each cut of the pictures.

    Args:
        splits: the data of the task itself.
    """
    if n_folds(task) == 1:
        return [(task, splits)]
    itself = task.options.get("fold", 0)
    folds = [of_fold(task, k) for k in range(n_folds(task))]
    return [(one, splits if k == itself else load(one)) for k, one in enumerate(folds)]


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
    if splits.environment is not None:
        wrong += _trajectory_problems(task, splits.environment)
    wrong += _label_problems(task, splits)
    if wrong:
        raise MetabenchError("\n".join(wrong))
    for part in parts:
        split: Split = getattr(splits, part)
        wrong += _size_problems(task, split, part, splits.name)
        drawn = task if part == "meta_train" else task.evaluated
        if not wrong:
            try:
                sampling.pool(split, drawn, getattr(task, QUERIES[part]))
            except MetabenchError as error:
                wrong.append(f"{part}: {error}")
        if not wrong and split.shared and task.domains == "within":
            for line in sampling.left_out(split, drawn, getattr(task, QUERIES[part])):
                logging.getLogger(__name__).warning("%s: %s: %s", splits.name, part, line)
    if wrong:
        raise MetabenchError("\n".join(wrong))


def _trajectory_problems(task: TaskConfig, environment: Environment) -> list[str]:
    """Say where one trajectory is all that advantages, which are standardised, are taken from."""
    is_long = environment.horizon > 1
    if environment.baseline == "none" or (is_long and environment.baseline == "zero"):
        return []
    advice = "zero or none" if is_long else "none"
    return [
        f"{key}={n}: one trajectory is its own baseline, and nothing is left to learn from; raise {key} to 2 "
        f"or more, or set the option baseline to {advice}"
        for key, n in {"shot": task.shots[0], "query": task.query}.items()
        if n < 2
    ]


def _label_problems(task: TaskConfig, splits: Splits) -> list[str]:
    """Say what is wrong with a task whose examples have labels of their own, if they have."""
    labels = splits.meta_train.labels
    if not labels:
        return []
    wrong = []
    if task.ways != (len(labels),) * 2:
        wrong.append(
            f"way={task.way}: every task of {splits.name} has the labels {', '.join(labels)}; set way to "
            f"{len(labels)}"
        )
    if task.shots[0] < len(labels):
        wrong.append(
            f"shot={task.shot}: is rows of a task here, one of each label among them; raise it to "
            f"{len(labels)} or more"
        )
    usual = TaskConfig(dataset=splits.name)
    return wrong + [
        f"{key}={getattr(task, key)}: an example of {splits.name} has its own label; this is for tasks of "
        "classes; leave it out"
        for key in ("most_shots", "unlabelled", "distractors", "domains")
        if getattr(task, key) != getattr(usual, key)
    ]


def _size_problems(task: TaskConfig, split: Split, part: str, name: str) -> list[str]:
    wrong = []
    n_classes, n_examples = split.images.shape[:2]
    if not n_classes:
        return [f"{part} of {name} has no classes, as its share is 0; for more than a test raise {part}"]
    is_training, smallest = part == "meta_train", ""
    each, cure = ("rows a task", ", or raise smallest") if split.labels else ("examples a class", "")
    if split.counts is not None:
        # Within and across domains, classes of too few examples are not drawn.
        is_least = task.domains == "any" or task.labelled < 1
        row = int(split.counts.argmin() if is_least else split.counts.argmax())
        what = "task" if split.labels else "class"
        n_examples, smallest = int(split.counts[row]), f" in {what} {split.classes[row]!r}"
    if split.has_environments:  # whose trajectories are made as they are needed
        return []
    drawn, way = task if is_training else task.evaluated, task.ways[1]
    keys = ("unlabelled", "distractors")
    unlabelled, distractors = (
        key if is_training or getattr(task, f"test_{key}") is None else f"test_{key}" for key in keys
    )
    if task.labels == "fixed" and 0 < len(split.shared) < way:
        wrong.append(f"labels=fixed with way={task.way}: {len(split.shared)} classes in all; lower way")
    if (1 if split.labels else way) + drawn.distractors > n_classes:
        more = f" and {distractors}={drawn.distractors}" if drawn.distractors else ""
        lower = f"way or {distractors}" if drawn.distractors else "way"
        wrong.append(f"way={way}{more}: {part} of {name} has only {n_classes} classes; lower {lower}")
    shots = {"most_shots": task.most_shots} if task.most_shots else {"shot": task.shots[1]}
    needed = {**shots, QUERIES[part]: getattr(task, QUERIES[part])}
    beside = {unlabelled: drawn.unlabelled} if drawn.unlabelled else {}
    if drawn.labelled < 1:
        return wrong + _share_problems(drawn.labelled, n_examples, needed, beside, f"{name}{smallest}")
    needed |= beside
    n_needed = sampling.n_examples_needed(drawn, getattr(task, QUERIES[part]))
    if n_needed > n_examples:
        wrong.append(
            f"{_listed(needed)} need {n_needed} {each}: {part} of {name} has only "
            f"{n_examples}{smallest}; lower {' or '.join(needed)}{cure}"
        )
    return wrong


def _share_problems(
    share: float, n_examples: int, needed: Mapping[str, int], beside: Mapping[str, int], where: str
) -> list[str]:
    """Say where a class has too few examples with a label, or too few without one."""
    n_labelled = sampling.n_labelled(n_examples, share)
    rest, wrong = n_examples - n_labelled, []
    if sum(needed.values()) > n_labelled:
        wrong.append(
            f"labelled={share}: {where} has {n_labelled} labelled examples a class; {_listed(needed)} need "
            f"{sum(needed.values())}; lower {' or '.join(needed)}, or raise labelled"
        )
    if sum(beside.values()) > rest:
        wrong.append(
            f"labelled={share}: {where} has {rest} examples a class without a label; {_listed(beside)} needs "
            f"more; lower {' or '.join(beside)} or labelled"
        )
    return wrong


def _listed(values: Mapping[str, int]) -> str:
    return " and ".join(f"{key}={value}" for key, value in values.items())
