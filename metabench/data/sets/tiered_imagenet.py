"""tiered-ImageNet: 608 classes of ImageNet in 34 categories, split by category by Ren et al."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from metabench.core import Splits
from metabench.data import Dataset
from metabench.data.reading import lists, photos
from metabench.data.reading.photos import Options, Photos

NAME = "tiered_imagenet"
PAGE = "https://www.image-net.org/download.php"
CATEGORIES = lists.grouped("tiered_imagenet_classes.txt")

PHOTOS = Photos(
    name=NAME,
    split="ren",
    classes=lists.ungrouped(CATEGORIES),
    domains=lists.group_of(CATEGORIES),
    fewest=732,
    most=1300,
    total=779_165,
    largest=200_000_000_000,
    are_others_left=True,
    get=f"ImageNet's training photographs (ILSVRC 2012), which {PAGE} gives to those who agree to its terms; "
    "the 1,000 classes' archives inside ILSVRC2012_img_train.tar must be unpacked, each into a folder of "
    "its class's name",
    layouts="train, val and test with folders of classes in each (351, 97 and 160), such as train/n01530575, "
    "or as ImageNet's own folders n01440764/*.JPEG, whose other classes are left alone",
)


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the split; no category of ImageNet's hierarchy is in two parts of it."""
    return photos.load(PHOTOS, root, options)


def is_here(root: Path | None) -> bool:
    """Say whether the images are under root."""
    return photos.is_here(PHOTOS, root)


DATASET = Dataset(
    name=NAME,
    summary="photographs of ImageNet, 608 of its classes, split by category; from your own copy, since it "
    "may not be passed on; decoded at size=84 it takes 17 GB of METABENCH_CACHE",
    size="608 classes x 732 to 1,300, 3 x size x size, 351/97/160 classes",
    licence="ImageNet's terms: research and education that is not commercial; not to be passed on",
    url=PAGE,
    citation=(
        "Russakovsky et al. 2015 (arXiv 1409.0575); split ren: Ren et al. 2018 (arXiv 1803.00676), list at "
        "https://github.com/renmengye/few-shot-ssl-public"
    ),
    splits=(PHOTOS.split,),
    options=Options,
    load=load,
    is_here=is_here,
    sources=partial(photos.sources, PHOTOS),
)
