"""The page: pictures and tables in sections, put into the template, which escapes all that it is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from metabench import __version__
from metabench.leaderboard import notes
from metabench.report.html.picture import Left, Picture
from metabench.report.html.reading import Found
from metabench.report.html.reproduce import Recipe
from metabench.report.html.style import COLOURS
from metabench.report.html.svg import Rendered
from metabench.report.html.tables import Table

HERE = Path(__file__).parent


class Section(NamedTuple):
    """A part of the page with a heading of its own."""

    name: str
    title: str
    parts: Sequence[Picture | Left | Table]


def render(
    found: Found,
    sections: Sequence[Section],
    rendered: Mapping[str, Rendered],
    recipes: Sequence[Recipe],
    beside: str,
    made: str,
) -> str:
    """Return the whole page as one document that needs nothing else.

    Args:
        rendered: the pictures by name.
        beside: where the pictures lie as files.
        made: when, in words.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        title=notes.title(found.board),
        about=_about(found),
        sections=[(section, [_part(part, rendered) for part in section.parts]) for section in sections],
        recipes=recipes,
        beside=beside,
        made=made,
        version=__version__,
        style=Markup(_style()),
        script=Markup(script),
        digest=digest,
    )


def _part(part: Picture | Left | Table, rendered: Mapping[str, Rendered]) -> dict[str, Any]:
    if isinstance(part, Picture):
        return {"kind": "picture", "of": part, "svg": rendered[part.name].inline}
    return {"kind": "left" if isinstance(part, Left) else "table", "of": part}


def _style() -> str:
    """Return the style sheet: the colours that pictures are drawn in, then the rest."""
    bright = "".join(f"--{name}:{light};" for name, (light, _) in COLOURS.items())
    both = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in COLOURS.items())
    # Browsers without light-dark() keep the light colours.
    colours = f":root{{{bright}}}\n@supports (color:light-dark(red,red)){{:root{{{both}}}}}\n"
    return colours + (HERE / "page.css").read_text(encoding="utf-8")


def _about(found: Found) -> list[str]:
    """Say what the report is of, and how far that has come."""
    ended = sum(tried.trial.status is not None for tried in found.trials)
    counted = ((len(found.searches), "search", "searches"), (len(found.runs), "single run", "single runs"))
    told = " and ".join(f"{n} {one if n == 1 else many}" for n, one, many in counted if n)
    lines = [f"{told}; protocol {found.board['protocol']}."]
    if found.trials:
        lines.append(f"{ended} of {len(found.trials)} trials have ended.")
    if found.board["status"] != "finished":
        lines.append("Still running: everything here is as far as it has come.")
    return lines
