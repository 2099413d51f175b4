"""CIFAR-FS: the 100 classes of CIFAR-100, split at random by Bertinetto et al."""

from __future__ import annotations

from functools import partial

from metabench.data import Dataset
from metabench.data.reading import cifar_files, splits

NAME = "cifar_fs"


def classes() -> splits.Classes:
    """Return Bertinetto's classes of each split."""
    return splits.sorted_classes(cifar_files.groups())


DATASET = Dataset(
    name=NAME,
    summary="photographs of things and animals, CIFAR-100's classes split at random",
    size="100 classes x 600, 3x32x32, 64/16/20 classes",
    licence=cifar_files.LICENCE,
    url=cifar_files.PAGE,
    citation=f"{cifar_files.CITATION}; split bertinetto: Bertinetto et al. 2019 (arXiv 1805.08136)",
    splits=("bertinetto",),
    options=cifar_files.Options,
    load=partial(cifar_files.load, NAME, classes()),
    is_available=cifar_files.is_available,
    fetch=cifar_files.fetch,
    sources=cifar_files.sources,
)
