"""CUB: photographs of 200 kinds of birds (CUB-200-2011), split as Chen et al. did."""

from __future__ import annotations

from functools import partial
from importlib import resources
from pathlib import Path

from metabench.core import Splits
from metabench.data import Dataset
from metabench.data.reading import photos
from metabench.data.reading.photos import Options, Photos

NAME = "cub"
PAGE = "https://data.caltech.edu/records/65de6-vp158"


def classes() -> dict[str, list[str]]:
    """Return Chen's classes: every second kind trains; the others validate and test in turn."""
    names = resources.files(__package__).joinpath("cub_classes.txt").read_text("utf-8").split()
    return {"meta_train": names[0::2], "meta_validation": names[1::4], "meta_test": names[3::4]}


PHOTOS = Photos(
    name=NAME,
    split="chen",
    classes=classes(),
    domains={name: NAME for names in classes().values() for name in names},
    fewest=41,
    most=60,
    total=11_788,
    largest=5_000_000_000,
    are_others_left=False,
    get=f"CUB_200_2011.tgz from {PAGE}",
    layouts="CUB_200_2011/images/001.Black_footed_Albatross/*.jpg (200 folders of classes), or as train, val "
    "and test with folders of classes in each",
)


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the split."""
    return photos.load(PHOTOS, root, options)


def is_here(root: Path | None) -> bool:
    """Say whether the images are under root."""
    return photos.is_here(PHOTOS, root)


DATASET = Dataset(
    name=NAME,
    summary="photographs of birds, one kind a class; from your own copy of CUB-200-2011",
    size="200 classes x 41 to 60, 3 x size x size, 100/50/50 classes",
    licence="none stated; the photographs belong to those who took them",
    url=PAGE,
    citation=(
        "Wah et al. 2011, The Caltech-UCSD Birds-200-2011 Dataset (CNS-TR-2011-001); split chen: Chen et al. "
        "2019 (arXiv 1904.04232): classes in the order of their numbers from 0, even: train, 1 mod 4: "
        "validation, 3 mod 4: test"
    ),
    splits=(PHOTOS.split,),
    options=Options,
    load=load,
    is_here=is_here,
    sources=partial(photos.sources, PHOTOS),
)
