"""What `search --time` does with what was typed: read it, have a space chosen, say what it is going to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
import yaml

from metabench import data
from metabench.cli.base import print_json
from metabench.cli.flags import describe_task
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace, nearest
from metabench.data.reading import archives
from metabench.data.sets import folder as folders
from metabench.leaderboard import leaderboard
from metabench.search.space.automatic import Timing
from metabench.storage import files

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}

OTHERS = {"accept": False, "warm_start": None, "address": None}
"""Options that `--time` does not go with, and what they are where they were not typed."""


def read(
    path: Path,
    time: str | None,
    budget: Mapping[str, Any],
    task: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], float] | None:
    """Return the settings of the task that were typed, and the seconds; None for a search space of YAML."""
    name = data.canonical(str(path))
    is_set = name in data.names()
    is_folder = not is_set and (path.is_dir() or archives.is_archive(path))
    if not is_set and not is_folder and not path.is_file():
        near = nearest(str(path), data.names()) if path.suffix != ".yaml" else ""
        raise MetabenchError(
            f"{path}: no such file; give a YAML file of a search space, or, with `time`, a folder or "
            f"archive of pictures or a data set's name.{near}"
        )
    if not is_set and not is_folder:
        typed = [*(["time"] if time is not None else []), *task]
        if typed:
            listed = " and ".join(f"`{'option' if key == 'options' else key}`" for key in typed)
            raise MetabenchError(
                f"{listed}: choose what stands in {path} already; change it there, or give a folder of "
                "pictures or a data set's name"
            )
        return None
    if time is None:
        what = "a data set" if is_set else "a folder of pictures"
        raise MetabenchError(
            f"{path}: is {what}; say how long the search may take, such as `time` 30m, or give a YAML "
            "file of a search space"
        )
    other = [*budget, *(key for key, value in OTHERS.items() if options[key] != value)]
    if other:
        listed = ", ".join(f"`{'accept_changes' if key == 'accept' else key}`" for key in other)
        raise MetabenchError(
            f"{listed}: with `time` the budget is chosen, and this machine is measured; leave it out, or "
            "change the space that such a search writes and search that"
        )
    return _task(path, name if is_set else folders.NAME, task), seconds(time)


def seconds(text: str) -> float:
    """Read a time such as 90s, 30m or 1h30m."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not total:
        raise MetabenchError(f"time={text}: must be a time such as 90s, 30m or 1h30m")
    return total


def _task(path: Path, name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the task as far as it was typed; all that is wrong is told at once."""
    shape = {key: value for key, value in task.items() if key in ("way", "shot")}
    pairs = list(task.get("options") or [])
    if name == folders.NAME and str(path) != name:
        pairs = [f"path={path}", *pairs]
    described = describe_task(name, task.get("split"), pairs, **shape).model_dump()
    described["options"] = data.anchored(name, described["options"])
    return {
        key: described[key]
        for key in ("dataset", "options", *shape, *(["split"] if task.get("split") else []))
    }


def choose(
    asked: tuple[dict[str, Any], float],
    names: Sequence[str] | None,
    place: Path,
    url: str | None,
    begun: float,
    options: Mapping[str, Any],
) -> tuple[SearchSpace, Timing]:
    """Choose a space and say so, or take the one that was chosen when the search began."""
    from metabench.search.ray import cluster
    from metabench.search.stages import automatic, plan

    task, time = asked
    before = automatic.recorded(place, None if url is None else f"{url}/{place.name}", task, time, begun)
    if before is not None:
        return before
    trial = cluster.TrialResources(options["cpus_per_trial"], options["gpus_per_trial"])
    slots = plan.where(None, trial)[0].slots
    space, timing, lines = automatic.choose(task, time, begun, slots, names)
    for line in () if options["quiet"] else lines:
        typer.echo(line, err=True)
    return space, timing


def show_plan(space: SearchSpace, as_json: bool) -> None:
    """Print the space that was chosen, as a file of its own would have it."""
    described = space.model_dump(mode="json", exclude_none=True)
    print_json(described) if as_json else typer.echo(yaml.safe_dump(described, sort_keys=False), nl=False)


def end(folder: Path) -> None:
    """Say which learner is best, what to type to use it, and what to search on."""
    typer.echo(f"\n{leaderboard([folder])['answer']}")
    typer.echo(f"to name pictures of new classes: metabench predict {folder} --support NEW_CLASSES/ PICTURES")
    typer.echo(f"to search further: edit a copy of {folder / files.SPACE}, and metabench search COPY.yaml")
