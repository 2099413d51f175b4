"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metabench.core import SPLITS, Split, Splits, setting
from metabench.data import Dataset
from metabench.data.reading import omniglot_files, splits

NAME = "omniglot"

HELD_OUT = 5
"""Alphabets of the background set, the last by name, that validate: Lake's split has no validation."""


@dataclass(frozen=True)
class Options:
    """What is added to the drawings."""

    rotations: bool = setting(True, "add meta-train characters turned by 90, 180 and 270 degrees as classes")
    resize: str = setting(
        "box", "Pillow's filter from 105 to 28 pixels; MAML took lanczos", choices=omniglot_files.RESIZES
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
    """Read a named split; drawings are resized from 105x105 and inverted, so that strokes are white."""
    classes = CLASSES[split]()
    names = _all()  # in one order for all splits, so that they share what is decoded
    position = {name: row for row, name in enumerate(names)}
    images = torch.from_numpy(omniglot_files.read(root, names, options.resize))
    parts = {}
    for part, listed in classes.items():
        chunk = images[[position[name] for name in listed]]
        is_turned = options.rotations and part == "meta_train"
        parts[part] = _split(chunk[:, :, None], listed, (0, 90, 180, 270) if is_turned else (0,))
    return splits.make_splits(f"{NAME}/{split}", **parts)


def _split(images: Tensor, names: list[str], turns: tuple[int, ...]) -> Split:
    """Make each turn of each character a class; degrees are counter-clockwise."""
    turned = torch.cat([torch.rot90(images, degrees // 90, (3, 4)) for degrees in turns])
    classes = [f"{name}/{degrees}" if degrees else name for degrees in turns for name in names]
    return Split(turned.contiguous(), tuple(classes), tuple(name.split("/")[0] for name in classes))


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
    is_available=omniglot_files.is_available,
    shares_classes_across_domains=False,  # character01 of two alphabets
    fetch=lambda root, split, options, order: omniglot_files.fetch(root, order),
    sources=lambda root, split, options: omniglot_files.sources(root),
)
