"""Published splits of images that may not be passed on: a file of YAML says which classes they have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from metabench.core import SPLITS, Pictures, Splits, setting
from metabench.core.config import attempt
from metabench.data import Dataset
from metabench.data.reading import published as _published
from metabench.data.reading import splits
from metabench.data.reading.images import Form
from metabench.data.sets.folder import PATH, SIZE, cut


@dataclass(frozen=True)
class PublishedOptions:
    """Where the images of a published split are, and how they are made alike."""

    path: str = setting(
        "",
        f"folder or archive of the images, {PATH}; empty: the folder of METABENCH_DATA that has the data "
        "set's name",
    )
    size: int = SIZE


@cache
def published(path: Path) -> Dataset:
    """Make a data set of a published split of images that may not be passed on.

    Args:
        path: a file of YAML that says what is known of it; its name is that of the data set.
    """
    about = splits.read_list(path.read_text("utf-8"))
    lists, are_grouped = about["classes"], isinstance(about["classes"]["meta_train"], dict)
    groups: splits.Groups = lists if are_grouped else {part: {path.stem: lists[part]} for part in SPLITS}
    numbers = {key: int(about[key]) for key in ("fewest", "most", "total", "largest")}
    images = _published.Published(
        name=path.stem,
        split=about["split"],
        classes=splits.sorted_classes(groups),
        domains=splits.group_of(groups),
        has_other_classes=about["has_other_classes"] == "true",
        get=about["get"],
        layouts=about["layouts"],
        **numbers,
    )
    return Dataset(
        name=images.name,
        **{key: about[key] for key in ("summary", "size", "licence", "url", "citation")},
        splits=(images.split,),
        options=PublishedOptions,
        is_resizable=True,
        load=partial(_load_published, images),
        is_available=partial(_published.is_available, images),
        sources=partial(splits.sources, default=images.name),
        anchor=splits.anchor,
    )


def _load_published(
    images: _published.Published, root: Path | None, split: str, options: PublishedOptions
) -> Splits:
    """Decode the images of a split, or read them from the cache; all that is wrong is told at once."""
    problems: list[str] = []
    path = options.path.strip() or (str(root / images.name) if root else "")
    place = attempt(problems, splits.locate, root, path)
    if place is None:
        default = (root or Path("METABENCH_DATA")) / images.name
        if not options.path.strip():
            unset = f"METABENCH_DATA is not set; set it to the folder that holds {images.name}/"
            problems = [f"{default} is not there" if root else f"{unset}, or the option path"]
        splits.refuse(images.name, [*problems, *_published.advice(images, default)])
    tree, by_class = _published.find(images, place)
    form = Form((3, options.size, options.size), Pictures())
    return cut(images.name, [], tree, by_class, form, images.classes, images.split, images.domains)
