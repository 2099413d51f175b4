"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from metabench.core import Split, Splits, setting
from metabench.data import Dataset, make_splits
from metabench.data.reading import fetch as _fetch
from metabench.data.reading import omniglot_files

NAME = "omniglot"

BACKGROUND = (
    "Alphabet_of_the_Magi",
    "Anglo-Saxon_Futhorc",
    "Arcadian",
    "Armenian",
    "Asomtavruli_(Georgian)",
    "Balinese",
    "Bengali",
    "Blackfoot_(Canadian_Aboriginal_Syllabics)",
    "Braille",
    "Burmese_(Myanmar)",
    "Cyrillic",
    "Early_Aramaic",
    "Futurama",
    "Grantha",
    "Greek",
    "Gujarati",
    "Hebrew",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Japanese_(hiragana)",
    "Japanese_(katakana)",
    "Korean",
    "Latin",
    "Malay_(Jawi_-_Arabic)",
    "Mkhedruli_(Georgian)",
    "N_Ko",
    "Ojibwe_(Canadian_Aboriginal_Syllabics)",
    "Sanskrit",
    "Syriac_(Estrangelo)",
    "Tagalog",
    "Tifinagh",
)
"""The alphabets of Lake's background set, by name; the other 20 are the evaluation set."""

HELD_OUT = 5
"""Alphabets of the background set, the last by name, that validate: Lake's split has no validation."""


@dataclass(frozen=True)
class Options:
    """What is added to the drawings."""

    rotations: bool = setting(True, "add meta-train characters turned by 90, 180 and 270 degrees as classes")
    resize: str = setting(
        "box", "Pillow's filter from 105 to 28 pixels; MAML took lanczos", choices=omniglot_files.RESIZES
    )


def vinyals_classes() -> dict[str, list[str]]:
    """Return the characters `<alphabet>/<character>` of each of Vinyals' splits."""
    classes: dict[str, list[str]] = {}
    text = resources.files(__package__).joinpath("omniglot_vinyals.txt").read_text("utf-8")
    for line in text.splitlines():
        if line.startswith("# "):
            current = classes.setdefault(line[2:], [])
        else:
            alphabet, first, last = line.split()
            current += [f"{alphabet}/character{number:02}" for number in range(int(first), int(last) + 1)]
    return classes


def maml_classes() -> dict[str, list[str]]:
    """Return 1100, 100 and 423 characters shuffled with seed 1, as MAML's code does.

    That code shuffles in the order of os.listdir, which differs between file systems, under Python 2; so its
    own draw cannot be had again. Here alphabets, and characters within each, are in the order of their names,
    and the shuffle is Python 3's.
    """
    names = sorted(_all(), key=lambda name: name.split("/"))
    random.Random(1).shuffle(names)
    return {"meta_train": names[:1100], "meta_validation": names[1100:1200], "meta_test": names[1200:]}


def lake_classes() -> dict[str, list[str]]:
    """Return Lake's background characters, less whole alphabets for validation, and his evaluation ones."""
    classes: dict[str, list[str]] = {"meta_train": [], "meta_validation": [], "meta_test": []}
    for name in sorted(_all(), key=lambda name: name.split("/")):
        alphabet = name.split("/")[0]
        is_held_out = alphabet in BACKGROUND[-HELD_OUT:]
        part = "meta_validation" if is_held_out else "meta_train" if alphabet in BACKGROUND else "meta_test"
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
    return make_splits(f"{NAME}/{split}", **parts)


def fetch(root: Path, split: str, options: Options, order: _fetch.Order) -> None:
    """Fetch the archives, which hold what every split needs."""
    omniglot_files.fetch(root, order)


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
    is_here=omniglot_files.is_here,
    has_namesakes=False,  # character01 of two alphabets
    fetch=fetch,
    sources=lambda root, split, options: omniglot_files.sources(root),
)
