"""FC100: the 100 classes of CIFAR-100, split by superclass by Oreshkin et al."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metabench.core import Splits
from metabench.data import Dataset
from metabench.data.reading import cifar_files
from metabench.data.reading import fetch as _fetch

NAME = "fc100"
SPLIT = "oreshkin"

META_VALIDATION = (
    "large_carnivores",
    "large_omnivores_and_herbivores",
    "non-insect_invertebrates",
    "small_mammals",
)
META_TEST = ("aquatic_mammals", "insects", "medium_mammals", "people")
"""Superclasses; the classes of the other twelve are meta-train."""


@dataclass(frozen=True)
class Options:
    """There is nothing to choose."""


def classes() -> dict[str, list[str]]:
    """Return Oreshkin's classes of each split: no superclass is in two."""
    found: dict[str, list[str]] = {"meta_train": [], "meta_validation": [], "meta_test": []}
    for name, home in sorted(cifar_files.superclasses().items()):
        held_out = "meta_validation" if home in META_VALIDATION else "meta_test"
        found[held_out if home in META_VALIDATION + META_TEST else "meta_train"].append(name)
    return found


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the split."""
    return cifar_files.load(NAME, split, root, classes())


def fetch(root: Path, split: str, options: Options, order: _fetch.Order) -> None:
    """Fetch CIFAR-100's archive, which CIFAR-FS needs, too."""
    cifar_files.fetch(root, order)


DATASET = Dataset(
    name=NAME,
    summary="photographs of things and animals, CIFAR-100's classes split by superclass",
    size="100 classes x 600, 3x32x32, 60/20/20 classes",
    licence=cifar_files.LICENCE,
    url=cifar_files.PAGE,
    citation=f"{cifar_files.CITATION}; split oreshkin: Oreshkin et al. 2018 (arXiv 1805.10123)",
    splits=(SPLIT,),
    options=Options,
    load=load,
    is_here=cifar_files.is_here,
    fetch=fetch,
    sources=cifar_files.sources,
)
