"""The report: one self-contained HTML file of searches and runs, and its pictures as PNG and SVG.

It reads what the folders hold by now, and opens neither meta-test nor the network.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import typer

from metabench.cli import show as views
from metabench.core import MetabenchError
from metabench.report.html import page, reading, reproduce, style, svg, tables
from metabench.report.html.page import Section
from metabench.report.html.picture import Left, Picture
from metabench.report.html.pictures import (
    adaptation,
    anytime,
    cost,
    curves,
    gallery,
    importance,
    parallel,
    ranking,
    rates,
    slices,
)
from metabench.report.html.reading import Found
from metabench.report.html.tables import Table
from metabench.storage import files

PICTURES = "pictures"


def show(places: Sequence[str], out: Path) -> None:
    """Write the report of folders or addresses and say where it is."""
    pictures = write([views.found(place) for place in places], out)
    typer.echo(f"{out}: {len(pictures)} pictures, also as PNG and SVG in {beside(out)}")


def write(folders: Sequence[Path], out: Path) -> list[Picture]:
    """Write a report and its pictures; return the pictures."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise MetabenchError(f"--out {out}: must end in .html")
    if out.is_dir():
        raise MetabenchError(f"--out {out}: is a folder; give a file, such as report.html")
    files.check_writable(out.parent)
    found = reading.read(folders)
    with style.rules():
        sections = _sections(found)
        pictures = [part for section in sections for part in section.parts if isinstance(part, Picture)]
        rendered = {picture.name: svg.render(picture) for picture in pictures}
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = page.render(found, sections, rendered, reproduce.recipes(found), f"{beside(out).name}/", made)
    for name, picture in rendered.items():
        svg.write(picture, beside(out), name)
    files.write_text(out, text)
    return pictures


def beside(out: Path) -> Path:
    """Name the folder of a report's pictures."""
    return out.with_name(f"{out.stem}_{PICTURES}")


def _sections(found: Found) -> Sequence[Section]:
    listed: list[Table] = [tables.budget(found)] if found.searches else []
    tried = tables.trials(found)
    none: list[Picture | Left | Table] = []
    return [
        Section(
            "ranking",
            "Leaderboard",
            [*ranking.draw(found), tables.leaderboard(found), tables.settings(found)],
        ),
        Section("cost", "Cost", [*cost.draw(found), *listed]),
        Section("search", "Search", [*anytime.draw(found), *curves.draw(found)]),
        Section(
            "settings",
            "Hyperparameters",
            [
                *importance.draw(found),
                *slices.draw(found),
                *parallel.draw(found),
                *([tried] if tried else none),
            ],
        ),
        Section("adaptation", "Adaptation", [*adaptation.draw(found), *rates.draw(found)]),
        Section("episodes", "Episodes", gallery.draw(found)),
    ]
