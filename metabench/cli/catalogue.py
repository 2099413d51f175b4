"""What there is to choose from: the algorithms and the data sets, with every setting."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from metabench import algorithms as registry
from metabench import data
from metabench.core import MetabenchError
from metabench.core.config import TaskConfig, parse_settings
from metabench.data.reading.fetch import Order


def algorithms(as_json: bool) -> None:
    """List the algorithms with their settings and references."""
    listed: list[dict[str, Any]] = [
        {
            "name": name,
            "kinds": found.kinds,
            "reference": found.reference,
            "settings": settings_of(found.hparams),
        }
        for name in registry.names()
        for found in [registry.get(name)]
    ]
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    for entry in listed:
        title = f"{entry['name']}: {', '.join(entry['kinds'])}"
        table = Table("setting", "default", "allowed", "meaning", title=title, title_justify="left")
        for row in entry["settings"]:
            table.add_row(row["name"], str(row["default"]), allowed(row), row["help"])
        Console().print(table)
        Console().print(entry["reference"], end="\n\n", highlight=False)


def settings_of(settings: type) -> list[dict[str, Any]]:
    """Describe a dataclass of settings, one entry a field."""
    kinds = get_type_hints(settings)
    return [
        {"name": field.name, "type": kinds[field.name].__name__, "default": field.default, **field.metadata}
        for field in dataclasses.fields(settings)
    ]


def allowed(row: Mapping[str, Any]) -> str:
    """Say in a few characters which values a setting takes."""
    if row["choices"] is not None:
        return " | ".join(map(str, row["choices"]))
    signs = {"minimum": ">=", "above": ">", "maximum": "<="}
    limits = [f"{sign} {row[key]}" for key, sign in signs.items() if row[key] is not None]
    return ", ".join([row["type"], *limits])


def datasets(as_json: bool) -> None:
    """List the data sets, where they come from, and whether they are here."""
    root = data.default_root()
    listed = []
    for name in data.names():
        found = data.get(name)
        entry = {
            key: getattr(found, key)
            for key in ("name", "kind", "summary", "size", "licence", "url", "citation", "splits")
        }
        told = {"is_here": found.is_here(root), "can_fetch": found.fetch is not None}
        listed.append({**entry, "options": settings_of(found.options), **told})
    if as_json:
        typer.echo(json.dumps(listed, indent=1))
        return
    for entry in listed:
        here = "here" if entry["is_here"] else "not here"
        Console().print(
            f"[bold]{entry['name']}[/bold] ({here}): {entry['summary']}; {entry['size']}", highlight=False
        )
        typer.echo(f"  splits: {', '.join(entry['splits'])}; licence: {entry['licence']}")
        if entry["citation"]:
            typer.echo(f"  cite: {entry['citation']}")
        if entry["can_fetch"] and not entry["is_here"]:
            typer.echo(f"  to get it: metabench datasets fetch {entry['name']}")
        for row in entry["options"]:
            typer.echo(f"  option {row['name']}={row['default']}: {row['help']} ({allowed(row)})")
    if root is None:
        typer.echo("METABENCH_DATA is not set: it names the folder of downloaded data sets", err=True)


def fetch(
    name: str, split: str | None, pairs: Sequence[str], url: str | None, jobs: int, is_whole: bool
) -> None:
    """Download what a data set's split needs, with a bar."""
    found = data.get(name)
    if found.fetch is None:
        if found.is_here(None):
            typer.echo(f"{name} needs no download")
            return
        fetchable = [other for other in data.names() if data.get(other).fetch]
        raise MetabenchError(
            f"{name}: cannot be fetched; get it from {found.url} (metabench datasets check {name} says where "
            f"to put it). Allowed: {', '.join(fetchable)}"
        )
    options = parse_settings(found.options, pairs, "--option")
    found, chosen, settings = data.configure(TaskConfig(dataset=name, split=split, options=options))
    assert found.fetch is not None
    root = data.default_root()
    if root is None:
        raise MetabenchError(
            f"{name}: METABENCH_DATA is not set; set it to the folder that is to hold the data: "
            f"METABENCH_DATA=~/data metabench datasets fetch {name}"
        )
    stderr = Console(stderr=True)
    with Progress(console=stderr) as bar:
        row = bar.add_task(name, total=None)
        order = Order(
            url=url,
            jobs=jobs,
            is_whole=is_whole,
            progress=lambda done, total: bar.update(row, completed=done, total=total),
            told=lambda line: bar.console.print(line, highlight=False, markup=False),
        )
        try:
            found.fetch(root, chosen, settings, order)
        except OSError as error:
            raise MetabenchError(
                f"{error.filename or root}: {error.strerror or error}; METABENCH_DATA must name a folder "
                "that can be written, with room enough"
            ) from error
    typer.echo(f"{name}: here, under {root}")
