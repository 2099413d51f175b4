"""The page: pictures and tables in sections, put into the template, which escapes all that it is given."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from metabench import __version__
from metabench.core import utc_now
from metabench.leaderboard import notes
from metabench.report.html import reproduce, tables
from metabench.report.html.pictures import (
    Drawn,
    Omitted,
    Picture,
    adaptation,
    cells,
    domains,
    fairness,
    leaderboard,
    search,
    sizes,
)
from metabench.report.html.reading import Results
from metabench.report.html.style import COLOURS
from metabench.report.html.svg import Rendered
from metabench.report.html.tables import Table
from metabench.search.journal.ledger import INFEASIBLE

HERE = Path(__file__).parent


class Section(NamedTuple):
    """A part of the page with a heading of its own."""

    name: str
    title: str
    parts: Sequence[Picture | Omitted | Table]


def sections(results: Results) -> list[Section]:
    """Draw and tabulate all that a report shows."""
    board = tables.of_board(results)
    rows = [
        *fairness.draw_parity(results),
        board["result"],
        *tables.classes(results),
        *tables.places(results),
        *domains.draw_domains(results),
        *tables.domains(results),
    ]
    chosen = [board[part] for part in ("choice", "setting") if board[part].rows]
    budget = [tables.budget(results)] if results.searches else []
    tried = [tables.trials(results)] if results.trials else []
    trials = [*search.draw_best(results), *search.draw_trials(results), *search.draw_finals(results)]
    adapted = [*adaptation.draw_steps(results), *adaptation.draw_rates(results)]
    return [
        Section("ranking", "Leaderboard", [*leaderboard.draw_ranking(results), *rows]),
        Section(
            "cost",
            "Cost",
            [
                *leaderboard.draw_cost(results),
                *leaderboard.draw_speed(results),
                *sizes.draw_sizes(results),
                *cells.draw_cells(results),
                board["cost"],
                *budget,
            ],
        ),
        Section("search", "Search", trials),
        Section("settings", "Hyperparameters", [*chosen, *search.draw_slices(results), *tried]),
        Section("adaptation", "Adaptation", adapted),
        Section("episodes", "Episodes", _episodes(results)),
    ]


def _episodes(results: Results) -> Drawn:
    shown = results.learners()
    if not shown:
        return [Omitted("Episodes", "no run to the full budget has weights yet")]
    from metabench.report.html.pictures import gallery  # computes, and so imports torch

    return gallery.draw(shown)


def render(
    results: Results, sections: Sequence[Section], rendered: Mapping[str, Rendered], beside: str
) -> str:
    """Return the whole page as one document that needs nothing else.

    Args:
        rendered: the pictures by name.
        beside: where the pictures lie as files.
    """
    loader, undefined = jinja2.FileSystemLoader(HERE), jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True)
    script, sheet = ((HERE / f"page.{form}").read_text(encoding="utf-8") for form in ("js", "css"))
    bright = "".join(f"--{name}:{light};" for name, (light, _) in COLOURS.items())
    both = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in COLOURS.items())
    # Browsers without light-dark() keep the light colours.
    colours = f":root{{{bright}}}\n@supports (color:light-dark(red,red)){{:root{{{both}}}}}\n"
    return environment.get_template("page.html").render(
        title=notes.title(results.board),
        answer=results.board.get("answer"),
        about=_about(results),
        sections=sections,
        rendered=rendered,
        recipes=reproduce.recipes(results),
        beside=beside,
        made=utc_now().strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        style=Markup(colours + sheet),
        script=Markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _about(results: Results) -> list[str]:
    """Say what the report is of, and how far that has come."""
    counts = {("search", "searches"): results.searches, ("single run", "single runs"): results.runs}
    shown = [f"{len(them)} {names[len(them) > 1]}" for names, them in counts.items() if them]
    sources = " and ".join(shown)
    lines = [f"{sources}; protocol {results.board['protocol']}."]
    if states := [tried.trial.status for tried in results.trials if tried.trial.status != INFEASIBLE]:
        ended = sum(state is not None for state in states)
        lines.append(f"{ended} of {len(states)} trials have ended.")
    if results.board["status"] == "running":
        lines.append("Still running: everything here is as far as it has come.")
    return lines
