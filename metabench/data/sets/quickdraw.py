"""Quick, Draw!: doodles of 345 categories by people with twenty seconds each, as 28x28 bitmaps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from metabench.core import MetabenchError, Split, Splits, setting
from metabench.data import Dataset
from metabench.data.reading import fetch as _fetch
from metabench.data.reading import quickdraw_files as files
from metabench.data.reading.cache import Array
from metabench.data.reading.quickdraw_files import DOWNLOAD, FOLDER, NAME
from metabench.data.reading.splits import Classes, make_splits, read_list

N_CATEGORIES = 345
POOL = 100
"""Drawings a category that validation and test draw from, as far as the files have them."""


@dataclass(frozen=True)
class Options:
    """How much of each category is used."""

    examples_per_class: int = setting(100, "drawings of each meta-train category", minimum=2)


def meta_dataset_classes() -> Classes:
    """Return Meta-Dataset's classes of each split, in its order."""
    return read_list(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def cloudera_classes() -> Classes:
    """Return the classes of each split of Cloudera Fast Forward's report, in its order."""
    names = _names(meta_dataset_classes())
    names.sort(key=lambda name: f"{name}.npy")  # file names, whose suffix changes the order of six
    np.random.RandomState(123).shuffle(names)
    return {"meta_train": names[:207], "meta_validation": names[207:276], "meta_test": names[276:]}


CLASSES = {"cloudera": cloudera_classes, "meta_dataset": meta_dataset_classes}


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read a named split; which rows are drawn is Cloudera's rule for both splits."""
    classes = CLASSES[split]()
    categories = files.open_all(root, _names(classes))
    rows = _draw({name: category.total for name, category in categories.items()}, classes, options)
    lacking = {name: len(files.lacking(categories[name], rows[name])) for name in rows}
    short = [name for name, n_lacking in lacking.items() if n_lacking]
    if short:
        n_rows = len(rows[short[0]])
        raise MetabenchError(
            f"{NAME}: {len(short)} categories lack some of their rows; {short[0]!r} has "
            f"{n_rows - lacking[short[0]]} of {n_rows}. To fetch them: metabench datasets fetch {NAME}, with "
            f"split={split} and the option examples_per_class={options.examples_per_class}"
        )
    parts = {}
    for part, names in classes.items():
        images = np.stack(
            [files.take(categories[name], rows[name]) for name in names]
        )  # [class, example, 784]
        tensor = torch.from_numpy(images).view(len(names), -1, 1, 28, 28)
        parts[part] = Split(tensor, tuple(names), (NAME,) * len(names))
    return make_splits(f"{NAME}/{split}", **parts)


def fetch(root: Path, split: str, options: Options, order: _fetch.Order) -> None:
    """Fetch the rows that a split draws, or whole files where that is asked for."""
    base = order.url or files.URL
    client = _fetch.Client(base, order.jobs)
    with _fetch.alone(root / NAME, order):
        if order.is_whole:
            _fetch_files(client, base, root / FOLDER, order)
        else:
            (root / files.ROWS).mkdir(exist_ok=True)
            _fetch_rows(client, base, root, CLASSES[split](), options, order)


def _fetch_files(client: _fetch.Client, base: str, folder: Path, order: _fetch.Order) -> None:
    folder.mkdir(exist_ok=True)
    names = _names(meta_dataset_classes())
    missing = [name for name in names if not (folder / f"{name}.npy").is_file()]

    def save(name: str) -> None:
        client.save(files.address(base, name), folder / f"{name}.npy")

    for done, _ in enumerate(client.each(order.jobs, missing, save), len(names) - len(missing) + 1):
        order.progress(done, len(names))


def _fetch_rows(
    client: _fetch.Client, base: str, root: Path, classes: Classes, options: Options, order: _fetch.Order
) -> None:
    """Fetch in two rounds: which rows are drawn depends on how many each category has."""
    names = _names(classes)
    categories = files.open_present(root, names)
    n_steps = 2 * len(names)

    def ask(name: str) -> tuple[int, int]:
        return files.header(client, base, name)

    starts = {}
    missing = [name for name in names if name not in categories]
    for done, (name, (start, count)) in enumerate(client.each(order.jobs, missing, ask), len(categories) + 1):
        starts[name], categories[name] = start, files.Category(count)
        order.progress(done, n_steps)
    rows = _draw({name: categories[name].total for name in names}, classes, options)
    lacking = {name: files.lacking(categories[name], rows[name]) for name in names}
    to_fetch = [name for name in names if len(lacking[name]) or name in starts]

    def get(name: str) -> None:
        category = categories[name]
        start, count = (starts[name], category.total) if name in starts else ask(name)
        if count != category.total:
            path = root / files.ROWS / f"{name}.npz"
            raise MetabenchError(
                f"{path}: taken from a file of {category.total} rows, but that of {base} has {count}; "
                "delete it, or take the former url"
            )
        images = files.fetch_rows(client, base, name, start, count, lacking[name])
        files.keep(root, name, category, lacking[name], images)

    for done, _ in enumerate(client.each(order.jobs, to_fetch, get), n_steps - len(to_fetch) + 1):
        order.progress(done, n_steps)


def _names(classes: Classes) -> list[str]:
    return [name for part in classes.values() for name in part]


def _draw(available: dict[str, int], classes: Classes, options: Options) -> dict[str, Array]:
    """Choose the rows of each category among those that it has.

    `RandomState.choice` without replacement is a permutation cut short, so the choice of one category does
    not depend on how many are chosen of the others, and fewer rows are the first of more.
    """
    n_train = options.examples_per_class
    short = min(classes["meta_train"], key=lambda name: available[name])
    if available[short] < n_train:
        n_short = sum(available[name] < n_train for name in classes["meta_train"])
        raise MetabenchError(
            f"{NAME}: examples_per_class={n_train}: {n_short} meta-train categories have fewer rows; "
            f"{short!r} has {available[short]} and needs {n_train}. "
            f"Set the option examples_per_class to {available[short]} or less, or get all rows. {DOWNLOAD}"
        )
    rng = np.random.RandomState(123)
    rng.shuffle(np.arange(len(available)))  # Cloudera shuffled its classes with the same generator first
    rows: dict[str, Array] = {}
    for part, names in classes.items():
        n_rows = n_train if part == "meta_train" else min(POOL, *(available[name] for name in names))
        rows |= {name: rng.choice(available[name], n_rows, replace=False) for name in names}
    return rows


def sources(root: Path | None) -> list[Path]:
    """List the files of the categories that are under root."""
    return files.sources(root, _names(meta_dataset_classes()))


DATASET = Dataset(
    name=NAME,
    summary="doodles by people, one category a class",
    size="345 classes, 28x28",
    licence="CC BY 4.0, Google",
    url="https://github.com/googlecreativelab/quickdraw-dataset",
    citation=(
        "Ha and Eck 2018 (arXiv 1704.03477); split cloudera: Cloudera Fast Forward 2020, Meta-Learning; "
        "split meta_dataset: Triantafillou et al. 2020 (arXiv 1903.03096)"
    ),
    splits=tuple(CLASSES),
    options=Options,
    load=load,
    is_available=lambda root: len(sources(root)) == N_CATEGORIES,
    fetch=fetch,
    sources=lambda root, split, options: sources(root),
)
