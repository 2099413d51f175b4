"""What `predict` does with what was typed: learn the classes of a folder, name the pictures, print."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import typer

from metabench.cli.base import print_json
from metabench.core import printable
from metabench.core.device import pick as pick_device
from metabench.predict import COVERAGE, class_folders, export_model, find_pictures, load
from metabench.storage import files


class Answer(NamedTuple):
    """What is said of a picture."""

    picture: Path
    label: str | None  # None where it abstains
    shares: dict[str, float]  # of each class
    may_be: list[str] | None  # classes of the set, the likeliest first; None where none was asked for


def predict(
    place: str,
    support: Path,
    places: Sequence[str],
    row: str | None,
    device: str,
    form: Literal["text", "json", "csv"],
    coverage: float | None = None,
    abstain: bool = False,
) -> None:
    """Classify pictures into the classes of a folder.

    Args:
        coverage: of sets of classes, which are printed too.
        abstain: leave a picture without an answer whose set is not of one class.
    """
    classifier = load(place, row, device=str(pick_device(device)))
    coverage = COVERAGE if coverage is None and abstain else coverage
    least = None if coverage is None else classifier.least_share(coverage)
    pictures = find_pictures(places)
    classifier.fit(*class_folders(support))
    classes = classifier.classes_.tolist()
    answers = []
    for picture, row_of_shares in zip(pictures, classifier.predict_proba(pictures), strict=True):
        shares = dict(zip(classes, row_of_shares.tolist(), strict=True))
        first, *_ = order = sorted(classes, key=lambda name: -shares[name])
        may_be = None if least is None else [name for name in order if shares[name] >= least]
        is_sure = not abstain or may_be == [first]
        answers.append(Answer(picture, first if is_sure else None, shares, may_be))
    if form == "csv":
        typer.echo(_as_csv(classes, answers), nl=False)
    elif form == "json":
        members = classifier.members
        about = {"row": members.row, "runs": members.folders, "notes": classifier.notes}
        print_json({**about, "coverage": coverage, "predictions": list(map(_described, answers))})
    else:
        for answer in answers:
            typer.echo(printable(_line(answer, coverage)))
    for note in classifier.notes if form != "json" else ():
        typer.echo(f"{place}: {note}", err=True)


def export(place: str, out: Path, to: str, support: Path | None, row: str | None) -> None:
    """Write a classifier into a folder that needs no metabench."""
    classifier = load(place, row)
    if support is not None:
        classifier.fit(*class_folders(support))
    written = export_model(classifier, out, to)
    typer.echo(printable(f"{out}: {', '.join(path.name for path in written)}"))
    for note in classifier.notes:
        typer.echo(f"{place}: {note}", err=True)


def _described(answer: Answer) -> dict[str, object]:
    may_be = {} if answer.may_be is None else {"set": answer.may_be}
    return {"picture": answer.picture, "label": answer.label, "probabilities": answer.shares, **may_be}


def _line(answer: Answer, coverage: float | None) -> str:
    ordered = sorted(answer.shares.items(), key=lambda pair: -pair[1])
    if answer.label is None:
        first, rest = "?", ordered
    else:
        (name, share), *rest = ordered
        first = f"{name} {share:.1%}"
    others = ", ".join(f"{name} {part:.1%}" for name, part in rest)
    line = f"{answer.picture}: {first} ({others})"
    if answer.may_be is None:
        return line
    return f"{line}; at {100 * (coverage or 0):g} %: {', '.join(answer.may_be) or 'none'}"


def _as_csv(classes: Sequence[str], answers: Sequence[Answer]) -> str:
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    has_sets = any(one.may_be is not None for one in answers)
    write(map(files.as_cell, ("picture", "label", *classes, *(["set"] if has_sets else []))))
    for one in answers:
        # The name of a folder has no slash in it.
        may_be = ["/".join(one.may_be)] if one.may_be is not None else []
        write(map(files.as_cell, (str(one.picture), one.label or "", *one.shares.values(), *may_be)))
    return text.getvalue()
