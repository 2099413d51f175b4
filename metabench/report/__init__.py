"""The report: one self-contained HTML file of searches and runs, and its pictures as PNG and SVG.

It reads what the folders hold by now, and opens neither meta-test nor the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from metabench.core import MetabenchError
from metabench.storage import files

if TYPE_CHECKING:
    from metabench.report.html.pictures import Picture


def write(folders: Sequence[Path], out: Path) -> list[Picture]:
    """Write a report and its pictures; return the pictures."""
    # Here, as exports, which are in this package too, draw nothing.
    from metabench.report.html import page, reading, style, svg
    from metabench.report.html.pictures import Picture

    if out.suffix.lower() not in (".html", ".htm"):
        raise MetabenchError(f"{out}: must end in .html")
    if out.is_dir():
        raise MetabenchError(f"{out}: is a folder; give a file, such as report.html")
    files.check_writable(out.parent)
    results = reading.read(folders)
    with style.rules():
        sections = page.sections(results)
        pictures = [part for section in sections for part in section.parts if isinstance(part, Picture)]
        rendered = {picture.name: svg.render(picture) for picture in pictures}
    for name, picture in rendered.items():
        files.write_bytes(beside(out) / f"{name}.svg", picture.svg)
        files.write_bytes(beside(out) / f"{name}.png", picture.png)
    files.write_text(out, page.render(results, sections, rendered, f"{beside(out).name}/"))
    return pictures


def beside(out: Path) -> Path:
    """Name the folder of a report's pictures."""
    return out.with_name(f"{out.stem}_pictures")
