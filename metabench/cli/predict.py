"""What `predict` does with what was typed: learn the classes of a folder, name the pictures, print."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import typer

from metabench.cli.base import print_json, printable
from metabench.core.device import pick as pick_device
from metabench.data.reading.cache import Array
from metabench.predict import class_folders, find_pictures, load
from metabench.storage import files


def predict(
    place: str,
    support: Path,
    places: Sequence[str],
    row: str | None,
    device: str,
    form: Literal["text", "json", "csv"],
) -> None:
    """Classify pictures into the classes of a folder."""
    classifier = load(place, row, device=str(pick_device(device)))
    pictures = find_pictures(places)
    classifier.fit(*class_folders(support))
    shares = classifier.predict_proba(pictures)
    classes = classifier.classes_.tolist()
    if form == "csv":
        typer.echo(_as_csv(pictures, classes, shares), nl=False)
    elif form == "json":
        members = classifier.members
        answers = [
            {
                "picture": picture,
                "label": classes[one.argmax()],
                "probabilities": dict(zip(classes, one, strict=True)),
            }
            for picture, one in zip(pictures, shares, strict=True)
        ]
        about = {"row": members.row, "runs": members.folders, "notes": members.notes}
        print_json({**about, "predictions": answers})
    else:
        for picture, one in zip(pictures, shares, strict=True):
            (best, share), *rest = sorted(zip(classes, one, strict=True), key=lambda pair: -pair[1])
            others = ", ".join(f"{name} {part:.1%}" for name, part in rest)
            typer.echo(printable(f"{picture}: {best} {share:.1%} ({others})"))
    for note in classifier.notes if form != "json" else ():
        typer.echo(f"{place}: {note}", err=True)


def _as_csv(pictures: Sequence[Path], classes: Sequence[str], shares: Array) -> str:
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(map(files.as_cell, ("picture", "label", *classes)))
    for picture, one in zip(pictures, shares, strict=True):
        write(map(files.as_cell, (str(picture), classes[one.argmax()], *one.tolist())))
    return text.getvalue()
