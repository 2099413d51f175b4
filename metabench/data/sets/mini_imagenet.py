"""mini-ImageNet: 100 classes of ImageNet, 600 photographs each, split by Ravi and Larochelle."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from metabench.core import Splits
from metabench.data import Dataset
from metabench.data.reading import photos
from metabench.data.reading.photos import Options, Photos

NAME = "mini_imagenet"

META_TRAIN = """
    n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747 n02074367 n02089867
    n02091831 n02101006 n02105505 n02108089 n02108551 n02108915 n02111277 n02113712 n02120079
    n02165456 n02457408 n02606052 n02687172 n02747177 n02795169 n02823428 n02966193 n03017168
    n03047690 n03062245 n03207743 n03220513 n03337140 n03347037 n03400231 n03476684 n03527444
    n03676483 n03838899 n03854065 n03888605 n03908618 n03924679 n03998194 n04067472 n04243546
    n04251144 n04258138 n04275548 n04296562 n04389033 n04435653 n04443257 n04509417 n04515003
    n04596742 n04604644 n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560
    n13133613
"""
META_VALIDATION = """
    n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356 n02981792 n03075370
    n03417042 n03535780 n03584254 n03770439 n03773504 n03980874 n09256479
"""
META_TEST = """
    n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165 n02219486 n02443484
    n02871525 n03127925 n03146219 n03272010 n03544143 n03775546 n04146614 n04149813 n04418357
    n04522168 n07613480
"""

CLASSES = {
    "meta_train": META_TRAIN.split(),
    "meta_validation": META_VALIDATION.split(),
    "meta_test": META_TEST.split(),
}

PAGE = "https://www.image-net.org/download.php"
LISTS = "https://github.com/twitter-research/meta-learning-lstm/tree/master/data/miniImagenet"

PHOTOS = Photos(
    name=NAME,
    split="ravi",
    classes=CLASSES,
    domains={name: NAME for names in CLASSES.values() for name in names},
    fewest=600,
    most=600,
    total=60_000,
    largest=20_000_000_000,
    are_others_left=False,
    get=f"ImageNet's photographs, which {PAGE} gives to those who agree to its terms; which 600 of a class "
    f"are meant, {LISTS} says",
    layouts="n01532829/*.jpg (100 folders of classes), as train, val and test with folders of classes in "
    "each, or as images/*.jpg beside Ravi and Larochelle's train.csv, val.csv and test.csv",
)


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read the split."""
    return photos.load(PHOTOS, root, options)


def is_here(root: Path | None) -> bool:
    """Say whether the images are under root."""
    return photos.is_here(PHOTOS, root)


DATASET = Dataset(
    name=NAME,
    summary="photographs of ImageNet, 100 of its classes; from your own copy, since it may not be passed on",
    size="100 classes x 600, 3 x size x size, 64/16/20 classes",
    licence="ImageNet's terms: research and education that is not commercial; not to be passed on",
    url=PAGE,
    citation=(
        "Vinyals et al. 2016 (arXiv 1606.04080); Russakovsky et al. 2015 (arXiv 1409.0575); "
        "split ravi: Ravi and Larochelle 2017, Optimization as a Model for Few-Shot Learning"
    ),
    splits=(PHOTOS.split,),
    options=Options,
    load=load,
    is_here=is_here,
    sources=partial(photos.sources, PHOTOS),
)
