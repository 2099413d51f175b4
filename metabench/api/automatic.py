"""What a search within a time is asked to be: the data, what of the task is set, the seconds; the choice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metabench import data
from metabench.api.describe import anchored
from metabench.core import MetabenchError
from metabench.core.config import SearchSpace, TaskConfig, nearest, validated
from metabench.data.reading import archives
from metabench.data.sets import folder as folders
from metabench.search.space.automatic import Timing
from metabench.storage import files

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}

LONGEST = 8760
"""Hours: a year."""

OTHERS = {"accept": False, "warm_start": None, "address": None}
"""Options that a time does not go with, and what they are where they were not given."""


def read(
    space: str | os.PathLike[str] | Mapping[str, Any],
    time: str | None,
    budget: Mapping[str, Any],
    task: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], float] | None:
    """Return the settings of the task that were given, and the seconds; None for a search space."""
    path = None if isinstance(space, Mapping) else files.path_of(space, "space")
    name = data.canonical(str(path or ""))
    is_set = name in data.names()
    is_folder = path is not None and not is_set and (path.is_dir() or archives.is_archive(path))
    if path is not None and not is_set and not is_folder and not path.is_file():
        near = nearest(str(path), data.names()) if path.suffix != ".yaml" else ""
        raise MetabenchError(
            f"{path}: no such file; give a YAML file of a search space, or, with `time`, a folder or "
            f"archive of pictures or a data set's name.{near}"
        )
    if not is_set and not is_folder:
        _refuse_beside(path, [*(["time"] if time is not None else []), *task])
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
    return _task(str(path), name if is_set else folders.NAME, task), seconds(time)


def _refuse_beside(path: Path | None, typed: Sequence[str]) -> None:
    """Refuse what a search space says already."""
    if typed:
        listed = " and ".join(f"`{key}`" for key in typed)
        raise MetabenchError(
            f"{listed}: choose what stands in {path or 'the space'} already; change it there, or give a "
            "folder of pictures or a data set's name"
        )


def seconds(text: str) -> float:
    """Read a time such as 90s, 30m or 1h30m."""
    parts = re.fullmatch("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in UNITS), str(text))
    numbers = [float(part or 0) for part in parts.groups()] if parts else [0.0]
    total = sum(number * unit for number, unit in zip(numbers, UNITS.values(), strict=False))
    if not 0 < total <= LONGEST * UNITS["h"]:
        raise MetabenchError(f"time={text}: must be a time such as 90s, 30m or 1h30m, and at most {LONGEST}h")
    return total


def _task(place: str, name: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the task as far as it was given; all that is wrong is told at once."""
    path = {"path": place} if name == folders.NAME and place != name else {}
    asked = {**task, "dataset": name, "options": {**path, **task.get("options", {})}}
    asked["options"] = anchored(data.get(name), asked["options"])
    described = validated(TaskConfig, asked).model_dump()
    return {key: described[key] for key in asked}


def choose(
    asked: tuple[dict[str, Any], float],
    names: Sequence[str] | None,
    place: Path,
    url: str | None,
    begun: float,
    options: Mapping[str, Any],
    say: Callable[[str], None],
) -> tuple[SearchSpace, Timing]:
    """Choose a space and say so, or take the one that was chosen when the search began."""
    from metabench.search.ray import cluster
    from metabench.search.stages import automatic, plan

    task, time = asked
    before = automatic.recorded(place, None if url is None else f"{url}/{place.name}", task, time, begun)
    if before is not None:
        return before
    trial = cluster.TrialResources(options["cpus_per_trial"], options["gpus_per_trial"])
    slots = plan.where(None, trial, options.get("cpus"))[0].slots
    quiet = options["quiet"]
    space, timing, lines = automatic.choose(task, time, begun, slots, names, *([] if quiet else [say]))
    for line in () if quiet else lines:
        say(line)
    return space, timing
