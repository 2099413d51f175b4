"""What there is to choose from: the algorithms and the data sets, with every setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from metabench import algorithms as registry
from metabench import data
from metabench.cli.base import print_json
from metabench.core import MetabenchError, plugins, printable
from metabench.core.config import TaskConfig, attempt, field_types, parse_settings
from metabench.data.reading.fetch import Order

BUILT_IN = "metabench"
"""Where what no other package adds comes from."""

FACTS = ("name", "summary", "size", "licence", "url", "citation", "splits")


def algorithms(names: Sequence[str], as_json: bool) -> None:
    """List the algorithms, or those of some names, with their settings and references."""
    wrong: list[str] = []
    for name in names:
        attempt(wrong, registry.get, name)
    if wrong:
        raise MetabenchError("\n".join(wrong))
    called = [*dict.fromkeys(registry.canonical(name) for name in names)]
    registered, origins = _registered("algorithm", called or registry.names(), registry.get)
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "from": origins[name],
                    "kinds": algorithm.kinds,
                    "reference": algorithm.reference,
                    "settings": settings_of(algorithm.hparams),
                }
                for name, algorithm in registered.items()
            ]
        )
        return
    for name, algorithm in registered.items():
        title = f"{name}{_of(origins[name])}: {', '.join(algorithm.kinds)}"
        table = Table("setting", "default", "allowed", "meaning", title=title, title_justify="left")
        for row in settings_of(algorithm.hparams):
            table.add_row(row["name"], str(row["default"]), allowed(row), row["help"])
        Console().print(table)
        Console().print(algorithm.reference, end="\n\n", highlight=False)


def _registered(
    what: str, names: Sequence[str], get: Callable[[str], Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Look all names up, and where they come from; what a package adds and cannot be used is told apart."""
    registered: dict[str, Any] = {}
    wrong: list[str] = []
    for name in names:
        registered[name] = attempt(wrong, get, name)
    for line in wrong:
        typer.echo(printable(line), err=True)
    added = plugins.plugins(what)
    origins = {name: added[name][0].origin if name in added else BUILT_IN for name in names}
    return {name: one for name, one in registered.items() if one is not None}, origins


def _of(origin: str) -> str:
    return "" if origin == BUILT_IN else f", of {origin}"


def settings_of(settings: type) -> list[dict[str, Any]]:
    """Describe a dataclass of settings, one entry a field."""
    kinds = field_types(settings)
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
    registered, origins = _registered("dataset", data.names(), data.get)
    listed = [
        {
            **{key: getattr(dataset, key) for key in FACTS},
            "kind": dataset.kind_of({}),
            "from": origins[dataset.name],
            "options": settings_of(dataset.options),
            "is_here": dataset.is_available(root),
            "can_fetch": dataset.fetch is not None,
        }
        for dataset in registered.values()
    ]
    if as_json:
        print_json(listed)
        return
    for entry in listed:
        here = "here" if entry["is_here"] else "not here"
        Console().print(
            f"[bold]{entry['name']}[/bold]{_of(entry['from'])} ({here}): {entry['summary']}; {entry['size']}",
            highlight=False,
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


def fetch(name: str, split: str | None, pairs: Sequence[str], **order: Any) -> None:
    """Download what a data set's split needs, with a bar.

    Args:
        order: how, as `data._fetch.Order` has it.
    """
    name = data.canonical(name)
    dataset, root = data.get(name), data.default_root()
    if dataset.fetch is None:
        if dataset.is_available(None):
            typer.echo(f"{name} needs no download")
            return
        fetchable = [other for other in data.names() if data.get(other).fetch]
        raise MetabenchError(
            f"{name}: cannot be fetched; get it from {dataset.url} (metabench datasets check {name} says "
            f"where to put it). Allowed: {', '.join(fetchable)}"
        )
    options = parse_settings(dataset.options, pairs, "--option")
    _, chosen, settings = data.configure(TaskConfig(dataset=name, split=split, options=options))
    if root is None:
        raise MetabenchError(
            f"{name}: METABENCH_DATA is not set; set it to the folder that is to hold the data: "
            f"METABENCH_DATA=~/data metabench datasets fetch {name}"
        )
    with Progress(console=Console(stderr=True)) as bar:
        row = bar.add_task(name, total=None)
        shown = Order(
            progress=lambda done, total: bar.update(row, completed=done, total=total),
            say=lambda line: bar.console.print(line, highlight=False, markup=False),
            **order,
        )
        try:
            dataset.fetch(root, chosen, settings, shown)
        except OSError as error:
            raise MetabenchError(
                f"{error.filename or root}: {error.strerror or error}; METABENCH_DATA must name a folder "
                "that can be written, with room enough"
            ) from error
    typer.echo(f"{name}: here, under {root}")
