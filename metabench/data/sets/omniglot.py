"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people.

The drawings are read out of the official archives, or out of folders unpacked from them.
"""

from __future__ import annotations

import io
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from metabench.core import SPLITS, MetabenchError, Pictures, Split, Splits, setting
from metabench.data import Dataset
from metabench.data.reading import archives, splits
from metabench.data.reading import fetch as _fetch
from metabench.data.reading.cache import Array, Key, cached, checksum

NAME = "omniglot"
VERSION = 2
"""Raised when the same files give other bytes."""

HELD_OUT = 5
"""Alphabets of the background set, the last by name, that validate: Lake's split has no validation."""

N_DRAWINGS = 20
SIDE = 105
URL = "https://github.com/brendenlake/omniglot/raw/master/python"
MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
UNPACKED = {"images_background.zip": "images_background", "images_evaluation.zip": "images_evaluation"}
DOWNLOAD = f"To download: metabench datasets fetch {NAME}"
LARGEST = 100_000
"""Bytes of one file of an archive at most; a drawing has a few hundred."""

LARGEST_IN_ALL = 500_000_000
"""Bytes of an unpacked archive at most; the real ones have some 10 million."""

RESIZES = ("box", "nearest", "bilinear", "hamming", "bicubic", "lanczos")
MEMBER = re.compile(r"(?:(?:images_background|images_evaluation)/)?([^/]+/character\d\d)/(\d{4}_\d\d\.png)")


@dataclass(frozen=True)
class Options:
    """What is added to the drawings."""

    rotations: bool = setting(True, "add meta-train characters turned by 90, 180 and 270 degrees as classes")
    resize: str = setting("box", "Pillow's filter from 105 to 28 pixels; MAML took lanczos", choices=RESIZES)
    domain: str = setting(
        "alphabet",
        "what a domain is: an alphabet, or one of the 20 who drew each, by number; of a drawer there is one "
        "drawing a character, so that domains=across asks for characters in another hand",
        choices=("alphabet", "drawer"),
    )


@cache
def _lists() -> dict[str, Any]:
    return splits.read_list(Path(__file__).with_suffix(".yaml").read_text("utf-8"))


def vinyals_classes() -> splits.Classes:
    """Return the characters `<alphabet>/<character>` of each of Vinyals' splits."""
    classes: splits.Classes = {}
    for part, alphabets in _lists()["vinyals"].items():
        spans = [(alphabet, *map(int, span.split("-"))) for alphabet, (span,) in alphabets.items()]
        classes[part] = [
            f"{alphabet}/character{number:02}"
            for alphabet, first, last in spans
            for number in range(first, last + 1)
        ]
    return classes


def maml_classes() -> splits.Classes:
    """Return 1100, 100 and 423 characters shuffled with seed 1, as MAML's code does.

    That code shuffles in the order of os.listdir, which differs between file systems, under Python 2; so its
    own draw cannot be had again. Here alphabets, and characters within each, are in the order of their names,
    and the shuffle is Python 3's.
    """
    names = sorted(_all(), key=lambda name: name.split("/"))
    random.Random(1).shuffle(names)
    return {"meta_train": names[:1100], "meta_validation": names[1100:1200], "meta_test": names[1200:]}


def lake_classes() -> splits.Classes:
    """Return Lake's background characters, less whole alphabets for validation, and his evaluation ones."""
    classes: splits.Classes = {part: [] for part in SPLITS}
    background = _lists()["background"]
    for name in sorted(_all(), key=lambda name: name.split("/")):
        alphabet = name.split("/")[0]
        is_held_out = alphabet in background[-HELD_OUT:]
        part = "meta_validation" if is_held_out else "meta_train" if alphabet in background else "meta_test"
        classes[part].append(name)
    return classes


def _all() -> list[str]:
    return [name for part in vinyals_classes().values() for name in part]


CLASSES = {"vinyals": vinyals_classes, "maml": maml_classes, "lake": lake_classes}


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read a named split; each turn of a character is a class, by degrees counter-clockwise."""
    names = _all()  # in one order for all splits, so that they share what is decoded
    position = {name: row for row, name in enumerate(names)}
    images = torch.from_numpy(read(root, names, options.resize))[:, :, None]
    parts = {}
    for part, listed in CLASSES[split]().items():
        chunk = images[[position[name] for name in listed]]
        turns = (0, 90, 180, 270) if options.rotations and part == "meta_train" else (0,)
        turned = torch.cat([torch.rot90(chunk, degrees // 90, (3, 4)) for degrees in turns])
        classes = [f"{name}/{degrees}" if degrees else name for degrees in turns for name in listed]
        parts[part] = Split(turned, tuple(classes), tuple(name.split("/")[0] for name in classes))
    if options.domain == "drawer":
        parts = {part: _by_drawer(one) for part, one in parts.items()}
    pictures = Pictures(resize=options.resize, is_inverted=True)
    return splits.make_splits(f"{NAME}/{split}", **parts, pictures=pictures)


def _by_drawer(split: Split) -> Split:
    """Make each drawing a class of the domain of who drew it."""
    drawers = [f"drawer{number:02}" for number in range(1, N_DRAWINGS + 1)]
    names = tuple(f"{drawer}/{name}" for name in split.classes for drawer in drawers)
    return Split(split.images.flatten(0, 1)[:, None], names, tuple(drawers * len(split.classes)))


def sources(root: Path | None, split: str, options: object) -> list[Path]:
    """List the archives or folders of both sets that are under root."""
    return [] if root is None else list(archives.find(root / NAME, UNPACKED).values())


def fetch(root: Path, split: str, options: object, order: _fetch.Order) -> None:
    """Fetch the official archives of the sets that are not here."""
    _fetch.archives(root / NAME, URL, MD5, UNPACKED, order)


def read(root: Path | None, characters: list[str], resize: str = "box") -> Array:
    """Return white strokes on black, uint8 [character, drawer, 28, 28], in the order asked for."""
    places = archives.require(NAME, root, NAME, UNPACKED)
    files = [
        file for place in places for file in ([place] if place.is_file() else sorted(place.glob("*/*/*.png")))
    ]
    names = [str(Path(NAME, file.relative_to(places[0].parent))) for file in files]
    key = Key(checksum(files), (VERSION, PIL.__version__, names, characters, resize))
    return cached(NAME, key, lambda: _decode(places, characters, resize))


def _decode(places: list[Path], characters: list[str], resize: str) -> Array:
    """Decode the drawings; refuse anything but 20 of each of the 1,623 characters."""
    drawings: dict[str, dict[str, Array]] = {}  # characters to file names to drawings
    for place in places:
        try:
            for member in archives.members(place, archives.Limits(LARGEST, LARGEST_IN_ALL)):
                if match := MEMBER.fullmatch(member.name):  # whatever else lies there is left alone
                    image = _image(member.read(), f"{match[1]}/{match[2]}", resize)
                    drawings.setdefault(match[1], {})[match[2]] = image
        except archives.Refused as error:
            raise MetabenchError(f"{NAME}: {error}. Replace it. {DOWNLOAD}") from error
    expected = dict.fromkeys(characters, N_DRAWINGS)
    counts = {one: len(files) for one, files in drawings.items()}
    wrong = [
        f"{one}: {counts.get(one, 0)} drawings, must be {expected.get(one, 0)}"
        for one in sorted({*expected, *counts})
        if counts.get(one, 0) != expected.get(one, 0)
    ]
    if wrong:
        alphabets = ", ".join(dict.fromkeys(line.split("/")[0] for line in wrong))
        lacks = f"{len(wrong)} characters of {alphabets} do not fit. Replace the files. {DOWNLOAD}"
        needs = f"{places[0].parent} must hold {len(characters)} characters x {N_DRAWINGS} drawings"
        splits.refuse(NAME, [f"{needs}; {lacks}", *wrong])
    return np.stack([[drawings[one][name] for name in sorted(drawings[one])] for one in characters])


def _image(content: bytes, name: str, resize: str) -> Array:
    """Decode one drawing; resizing by area ("box") keeps the weight of its strokes."""
    problem = ""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.size == (SIDE, SIDE):
                small = image.convert("L").resize((28, 28), Image.Resampling[resize.upper()])
                return 255 - np.asarray(small)
            problem = f"must be {SIDE}x{SIDE} pixels, but is {image.size}"
    except archives.DAMAGE as error:
        problem = f"is not a picture ({error})"
    raise MetabenchError(f"omniglot: {name}: {problem}. Replace the files. {DOWNLOAD}")


DATASET = Dataset(
    name=NAME,
    summary="handwritten characters of 50 alphabets",
    size="1,623 classes x 20, 28x28",
    licence="MIT",
    url="https://github.com/brendenlake/omniglot",
    citation=(
        "Lake, Salakhutdinov and Tenenbaum 2015, Science 350; "
        "split vinyals: Vinyals et al. 2016 (arXiv 1606.04080); "
        "split maml: Finn, Abbeel and Levine 2017 (arXiv 1703.03400), 1100/100/423 characters shuffled with "
        "seed 1 from the order of their names; split lake: background and evaluation set, where the "
        "background's last five alphabets by name validate"
    ),
    splits=tuple(CLASSES),
    options=Options,
    load=load,
    is_available=lambda root: len(sources(root, "", None)) == len(UNPACKED),
    # character01 of two alphabets
    shares_classes_across_domains=lambda options: options.domain == "drawer",
    fetch=fetch,
    sources=sources,
)
