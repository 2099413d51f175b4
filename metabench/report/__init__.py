"""The report: one self-contained HTML file of searches and runs, and its pictures as PNG and SVG.

It reads what the folders hold by now, and opens neither meta-test nor the network.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from metabench.core import MetabenchError
from metabench.report.html import page, reading, reproduce, style, svg, tables
from metabench.report.html.page import Section
from metabench.report.html.pictures import (
    Picture,
    adaptation,
    anytime,
    cost,
    curves,
    gallery,
    ranking,
    rates,
    slices,
)
from metabench.report.html.reading import Results
from metabench.storage import files


def write(folders: Sequence[Path], out: Path) -> list[Picture]:
    """Write a report and its pictures; return the pictures."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise MetabenchError(f"{out}: must end in .html")
    if out.is_dir():
        raise MetabenchError(f"{out}: is a folder; give a file, such as report.html")
    files.check_writable(out.parent)
    results = reading.read(folders)
    with style.rules():
        sections = _sections(results)
        pictures = [part for section in sections for part in section.parts if isinstance(part, Picture)]
        rendered = {picture.name: svg.render(picture) for picture in pictures}
    made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = page.render(results, sections, rendered, reproduce.recipes(results), f"{beside(out).name}/", made)
    for name, picture in rendered.items():
        svg.write(picture, beside(out), name)
    files.write_text(out, text)
    return pictures


def beside(out: Path) -> Path:
    """Name the folder of a report's pictures."""
    return out.with_name(f"{out.stem}_pictures")


def _sections(results: Results) -> list[Section]:
    board = [*ranking.draw(results), tables.leaderboard(results), tables.settings(results)]
    budget = [tables.budget(results)] if results.searches else []
    tried = [tables.trials(results)] if results.trials else []
    return [
        Section("ranking", "Leaderboard", board),
        Section("cost", "Cost", [*cost.draw(results), *budget]),
        Section("search", "Search", [*anytime.draw(results), *curves.draw(results)]),
        Section("settings", "Hyperparameters", [*slices.draw(results), *tried]),
        Section("adaptation", "Adaptation", [*adaptation.draw(results), *rates.draw(results)]),
        Section("episodes", "Episodes", gallery.draw(results)),
    ]
