"""What `search --time` prints: the space that was chosen, and what to type next."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml

from metabench.cli.base import print_json
from metabench.core.config import SearchSpace
from metabench.leaderboard import leaderboard
from metabench.storage import files


def show_plan(space: SearchSpace, as_json: bool) -> None:
    """Print the space that was chosen, as a file of its own would have it."""
    described = space.model_dump(mode="json", exclude_none=True)
    print_json(described) if as_json else typer.echo(yaml.safe_dump(described, sort_keys=False), nl=False)


def end(folder: Path) -> None:
    """Say which learner is best, what to type to use it, and what to search on."""
    typer.echo(f"\n{leaderboard([folder])['answer']}")
    typer.echo(f"to name pictures of new classes: metabench predict {folder} --support NEW_CLASSES/ PICTURES")
    typer.echo(f"to search further: edit a copy of {folder / files.SPACE}, and metabench search COPY.yaml")
