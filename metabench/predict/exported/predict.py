"""Say which class pictures show, by the model beside this file; it needs no metabench."""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fitting
import numpy as np

HERE = Path(__file__).resolve().parent
BATCH = 64
"""Pictures that are in memory at once."""

Array = np.ndarray[Any, Any]


class Refused(Exception):
    """A mistake in what was typed."""


class Predictor:
    """A model with the classes that it names.

    Args:
        folder: of the export.
        support: folder of folders of pictures, a folder a class, for a model that knows no classes yet.
    """

    def __init__(self, folder: Path = HERE, support: Path | None = None) -> None:
        self.about = json.loads((folder / "predictor.json").read_text("utf-8"))
        self.classes: list[str] = self.about["classes"]
        self.support: tuple[Any, ...] = ()
        if self.classes and support:
            raise Refused("--support: the model was exported with its classes; leave it out")
        if not self.classes:
            self._learn(support)
        self.run = _model(folder / self.about["model"])

    def _learn(self, support: Path | None) -> None:
        """Read the pictures of classes."""
        if support is None:
            raise Refused("--support: give a folder of folders of pictures, a folder a class")
        shown = _shown(support)
        folders = [one for one in shown if (support / one).is_dir()]
        paths = [one for one in {*shown} - {*folders} if Path(one).suffix.lower() in fitting.SUFFIXES]
        paths.sort()
        wrong = fitting.class_problems(support, folders, paths)
        if not wrong and len(folders) < 2:
            wrong = [f"{str(support)!r}: holds 1 class; give a folder of pictures for each of 2 or more"]
        if wrong:
            raise Refused("\n".join(f"support: {line}" for line in wrong))
        named = {
            fitting.plain(one): [support / path for path in paths if path.startswith(f"{one}/")]
            for one in folders
        }
        self.classes = sorted(named)
        pictures = [named[name] for name in self.classes]
        counts = [len(some) for some in pictures]
        labels = np.repeat(np.arange(len(counts)), counts)
        self.support = (self.read([one for some in pictures for one in some]), labels, len(counts))

    def read(self, pictures: Sequence[Path]) -> Array:
        """Return pictures as inputs, float32 [n, C, H, W] in [0, 1]."""
        how, inputs = SimpleNamespace(**self.about["pictures"]), []
        with warnings.catch_warnings(), fitting.own_limit():
            warnings.simplefilter("ignore")  # Pillow's, about what does not hinder it
            for path in pictures:
                try:
                    inputs.append(fitting.fitted(fitting.opened(path), self.about["shape"], how))
                except Exception as error:  # a damaged picture raises whatever comes to it
                    raise Refused(f"{path}: cannot be read: {error}") from error
        return np.stack(inputs).astype(np.float32) / np.float32(255)

    def __call__(self, pictures: Sequence[Path]) -> Array:
        """Return the probability of each class for each picture, [n, N]."""
        size = 1 if self.about["is_one_at_a_time"] else BATCH
        parts = [pictures[start : start + size] for start in range(0, len(pictures), size)]
        return np.concatenate([self.run(*self.support, self.read(part)) for part in parts])


def _model(path: Path) -> Callable[..., Array]:
    """Open a model of ONNX, or of torch.export."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_inputs()]
        return lambda *values: session.run(
            None, {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
        )[0]
    import torch

    module = torch.export.load(path).module()

    def run(*values: Any) -> Array:
        with torch.no_grad():
            return module(*(one if isinstance(one, int) else torch.from_numpy(one) for one in values)).numpy()

    return run


def _shown(folder: Path) -> list[str]:
    """Return the paths of all that lies in a folder, in their order, but for what systems leave behind."""
    try:
        os.listdir(folder)
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; give a folder of pictures") from error
    names = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*"))
    return [name for name in names if not any(map(fitting.is_hidden, name.split("/")))]


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder, and in those inside it, in the order of their paths."""
    return [folder / one for one in _shown(folder) if Path(one).suffix.lower() in fitting.SUFFIXES]


def main() -> None:
    """Read the command line, and print an answer for each picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, help="files, and folders of them")
    parser.add_argument("--support", type=Path, help="folder of new classes: class/picture.png")
    parser.add_argument("--json", action="store_true", help="print JSON")
    typed = parser.parse_args()
    try:
        pictures = [
            one for place in typed.pictures for one in (_pictures(place) if place.is_dir() else [place])
        ]
        if not pictures:
            raise Refused("no picture; give files, or folders of them")
        predictor = Predictor(HERE, typed.support)
        shares = predictor(pictures).tolist()
    except Refused as refusal:
        parser.exit(2, f"predict.py: {refusal}\n")
    answers = [dict(zip(predictor.classes, one, strict=True)) for one in shares]
    labels = [max(one, key=lambda name: one[name]) for one in answers]
    rows = [*zip(map(str, pictures), labels, answers, strict=True)]
    if typed.json:
        keys = ("picture", "label", "probabilities")
        print(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
        return
    for picture, label, one in rows:
        print(f"{picture}: {label} {one[label]:.1%}")


if __name__ == "__main__":
    main()
