"""Omniglot: 1,623 characters of 50 alphabets, each drawn once by 20 people."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from metabench.core import Split, Splits, setting
from metabench.data import Dataset, _omniglot_files, make_splits

NAME = "omniglot"


@dataclass(frozen=True)
class Options:
    """What is added to the drawings."""

    rotations: bool = setting(True, "add meta-train characters turned by 90, 180 and 270 degrees as classes")


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


def load(root: Path | None, split: str, options: Options) -> Splits:
    """Read a named split; drawings are resized from 105x105 and inverted, so that strokes are white."""
    classes = vinyals_classes()
    names = [name for part in classes.values() for name in part]
    images = torch.from_numpy(_omniglot_files.read(root, names))
    parts = {}
    for part, chunk in zip(classes, images.split([len(names) for names in classes.values()]), strict=True):
        is_turned = options.rotations and part == "meta_train"
        parts[part] = _split(chunk[:, :, None], classes[part], (0, 90, 180, 270) if is_turned else (0,))
    return make_splits(f"{NAME}/{split}", **parts)


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
        "split vinyals: Vinyals et al. 2016 (arXiv 1606.04080)"
    ),
    splits=("vinyals",),
    options=Options,
    load=load,
    is_here=_omniglot_files.is_here,
)
