"""CIFAR-FS: the 100 classes of CIFAR-100, split at random by Bertinetto et al."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metabench.core import Splits
from metabench.data import Dataset
from metabench.data.reading import cifar_files, lists
from metabench.data.reading import fetch as _fetch

NAME = "cifar_fs"
SPLIT = "bertinetto"


@dataclass(frozen=True)
class Options:
    """There is nothing to choose."""


def classes() -> dict[str, list[str]]:
    """Return Bertinetto's classes of each split."""
    return lists.ungrouped(lists.grouped("cifar_fs_classes.txt"))


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the split."""
    return cifar_files.load(NAME, split, root, classes())


def fetch(root: Path, split: str, options: Options, order: _fetch.Order) -> None:
    """Fetch CIFAR-100's archive, which FC100 needs, too."""
    cifar_files.fetch(root, order)


DATASET = Dataset(
    name=NAME,
    summary="photographs of things and animals, CIFAR-100's classes split at random",
    size="100 classes x 600, 3x32x32, 64/16/20 classes",
    licence=cifar_files.LICENCE,
    url=cifar_files.PAGE,
    citation=f"{cifar_files.CITATION}; split bertinetto: Bertinetto et al. 2019 (arXiv 1805.08136)",
    splits=(SPLIT,),
    options=Options,
    load=load,
    is_here=cifar_files.is_here,
    fetch=fetch,
    sources=cifar_files.sources,
)
