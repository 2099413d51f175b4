"""FC100: the 100 classes of CIFAR-100, split by superclass by Oreshkin et al."""

from __future__ import annotations

from functools import partial

from metabench.core import SPLITS
from metabench.data.reading import splits
from metabench.data.sets import cifar_fs

NAME = "fc100"

META_VALIDATION = (
    "large_carnivores",
    "large_omnivores_and_herbivores",
    "non-insect_invertebrates",
    "small_mammals",
)
META_TEST = ("aquatic_mammals", "insects", "medium_mammals", "people")
"""Superclasses; the classes of the other twelve are meta-train."""


def classes() -> splits.Classes:
    """Return Oreshkin's classes of each split: no superclass is in two."""
    parts: splits.Classes = {part: [] for part in SPLITS}
    for name, home in sorted(cifar_fs.superclasses().items()):
        held_out = "meta_validation" if home in META_VALIDATION else "meta_test"
        parts[held_out if home in META_VALIDATION + META_TEST else "meta_train"].append(name)
    return parts


DATASET = cifar_fs.DATASET._replace(
    name=NAME,
    summary="photographs of things and animals, CIFAR-100's classes split by superclass",
    size="100 classes x 600, 3x32x32, 60/20/20 classes",
    citation=f"{cifar_fs.CITATION}; split oreshkin: Oreshkin et al. 2018 (arXiv 1805.10123)",
    splits=("oreshkin",),
    load=partial(cifar_fs.load, NAME, classes()),
)
