"""Quick, Draw!: doodles of 345 categories by people with twenty seconds each, as 28x28 bitmaps."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metabench.core import MetabenchError, Split, Splits, setting
from metabench.data import Dataset, make_splits

NAME = "quickdraw"
FOLDER = "quickdraw/numpy_bitmap"
POOL = 100
"""Drawings a category that validation and test draw from, as far as the files have them."""

DOWNLOAD = (
    f"To download: gsutil -m cp 'gs://quickdraw_dataset/full/numpy_bitmap/*.npy' <METABENCH_DATA>/{FOLDER}/"
)

Array = np.ndarray[Any, Any]
Classes = dict[str, list[str]]


@dataclass(frozen=True)
class Options:
    """How much of each category is used."""

    examples_per_class: int = setting(100, "drawings of each meta-train category", minimum=2)


def meta_dataset_classes() -> Classes:
    """Return Meta-Dataset's classes of each split, in its order."""
    classes: Classes = {}
    text = resources.files(__package__).joinpath("quickdraw_classes.txt").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("# "):
            current = classes.setdefault(line[2:], [])
        else:
            current.append(line)
    return classes


def cloudera_classes() -> Classes:
    """Return the classes of each split of Cloudera Fast Forward's report, in its order."""
    names = [name for part in meta_dataset_classes().values() for name in part]
    names.sort(key=lambda name: f"{name}.npy")  # file names, whose suffix changes the order of six
    np.random.RandomState(123).shuffle(names)
    return {"meta_train": names[:207], "meta_validation": names[207:276], "meta_test": names[276:]}


CLASSES = {"cloudera": cloudera_classes, "meta_dataset": meta_dataset_classes}


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read a named split; which rows are drawn is Cloudera's rule for both splits."""
    classes = CLASSES[split]()
    files = _open(_folder(root), [name for part in classes.values() for name in part])
    rows = _draw(files, classes, options.examples_per_class)
    parts = {}
    for part, names in classes.items():
        images = np.stack([files[name][rows[name]] for name in names])  # [class, example, 784]
        tensor = torch.from_numpy(images).view(len(names), -1, 1, 28, 28)
        parts[part] = Split(tensor, tuple(names), (NAME,) * len(names))
    return make_splits(f"{NAME}/{split}", **parts)


def _folder(root: Path | None) -> Path:
    if root is None:
        raise MetabenchError(
            f"{NAME}: METABENCH_DATA is not set; set it to the folder that holds {FOLDER}/<category>.npy. "
            f"{DOWNLOAD}"
        )
    folder = root / FOLDER
    if not folder.is_dir():
        raise MetabenchError(f"{NAME}: {folder} is not a folder; METABENCH_DATA must hold it. {DOWNLOAD}")
    return folder


def _open(folder: Path, names: list[str]) -> dict[str, Array]:
    """Map the file of each category into memory; all that is wrong with them is reported at once."""
    missing = [name for name in names if not (folder / f"{name}.npy").is_file()]
    files, wrong = {}, []
    for name in sorted(set(names) - set(missing)):
        path = folder / f"{name}.npy"
        try:
            files[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            wrong.append(f"{path}: cannot be read as a NumPy array ({error}); download it again")
            continue
        if files[name].dtype != np.uint8 or files[name].shape[1:] != (784,):
            found = f"{files[name].dtype} {list(files[name].shape)}"
            wrong.append(f"{path}: must be uint8 [n, 784], but is {found}; download it again")
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        wrong.insert(
            0, f"{folder}: {len(missing)} of {len(names)} categories are missing ({some}). {DOWNLOAD}"
        )
    if wrong:
        more = [f"and {len(wrong) - 5} more files"] if len(wrong) > 5 else []
        raise MetabenchError("\n".join(f"{NAME}: {line}" for line in wrong[:5] + more))
    return files


def _draw(files: dict[str, Array], classes: Classes, n_train: int) -> dict[str, Array]:
    """Choose the rows of each category.

    `RandomState.choice` without replacement is a permutation cut short, so the choice of one category does
    not depend on how many are chosen of the others, and fewer rows are the first of more.
    """
    available = {name: len(files[name]) for name in files}
    short = min(classes["meta_train"], key=lambda name: available[name])
    if available[short] < n_train:
        n_short = sum(available[name] < n_train for name in classes["meta_train"])
        raise MetabenchError(
            f"{NAME}: examples_per_class={n_train}: {n_short} meta-train categories have fewer rows; "
            f"{short!r} has {available[short]} and needs {n_train}. "
            f"Set the option examples_per_class to {available[short]} or less, or get all rows. {DOWNLOAD}"
        )
    rng = np.random.RandomState(123)
    rng.shuffle(np.arange(len(files)))  # Cloudera shuffled its classes with the same generator first
    rows: dict[str, Array] = {}
    for part, names in classes.items():
        n_rows = n_train if part == "meta_train" else min(POOL, *(available[name] for name in names))
        rows |= {name: rng.choice(available[name], n_rows, replace=False) for name in names}
    return rows


def is_here(root: Path | None) -> bool:
    """Say whether the files of every category are under root."""
    names = [name for part in meta_dataset_classes().values() for name in part]
    return root is not None and all((root / FOLDER / f"{name}.npy").is_file() for name in names)


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
    is_here=is_here,
)
