"""What may change about a search that goes on: refused with the difference shown, or recorded."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metabench.core import MetabenchError
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.storage import files, remote

FIXED = (
    "protocol",
    "seed",
    "data_fingerprint",
    "task",
    "network",
    "warm_start",
    "budget.validation_tasks",
    "budget.borderline_tasks",
)
"""What all numbers of a search, or what it knew before them, depend on: they could not be compared."""

REOPENS = (
    "budget.trials",
    "budget.tasks",
    "budget.confirm_top",
    "budget.confirm_tasks",
    "algorithms",
    "shared",
)
"""What the choice of a setting rests on."""

EARLIER = "earlier"
"""Folder of the results that a search had before it was extended."""


def settle(folder: Path, space: SearchSpace, described: dict[str, Any], accept: bool) -> SearchSpace:
    """Return the space to go on with, or refuse what is different.

    Args:
        described: what the search would be recorded as now.
        accept: take the differences that leave the old numbers comparable, and record them.
    """
    before = files.read_json(folder / files.SEARCH)
    try:
        known_space = SearchSpace.model_validate(before["space"])
    except (ValidationError, KeyError) as error:
        raise MetabenchError(
            f"{folder}: {files.SEARCH} describes no search that this version knows"
        ) from error
    before["space"] = known_space.model_dump(mode="json")  # with settings that there were not then
    space = _keep_rungs(known_space, space)
    described = {**described, "space": space.model_dump(mode="json")}
    old, new = (
        flatten({key: found.get(key) for key in described}) for found in (before, files.plain(described))
    )
    changed = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    if not changed:
        return space
    lines = [f"  {key}: {_show(old, key)} there, {_show(new, key)} given" for key in changed]
    fixed = [key for key in changed if key in FIXED or key.split(".")[0] in FIXED]
    if fixed or not accept:
        advice = "choose another --name, or undo what is different"
        if not fixed:
            advice += ", or go on all the same with --accept-changes, which records it"
        elif accept:
            advice += f" (--accept-changes allows no other {', '.join(fixed)}: numbers could not be compared)"
        raise MetabenchError(f"{folder}: holds another search; {advice}:\n" + "\n".join(lines))
    _refuse_less(folder, known_space, space)
    if any(key.startswith(REOPENS) for key in changed):
        move(folder, [files.CHOSEN, files.CONFIRM], _place(before))
    if any(not key.startswith(("version", "code")) for key in changed):
        move(folder, [files.META_TEST, *_boards(folder)], _place(before))
    record = {"date": _now(), "changed": {key: [old.get(key), new.get(key)] for key in changed}}
    known = {**before, **described, "changes": [*before.get("changes", []), record]}
    files.write_json(folder / files.SEARCH, known)
    return space


def move(folder: Path, names: list[str], target: str) -> None:
    """Move results into a folder of their own within the search folder, where they are there."""
    for name in names:
        source = folder / name
        remote.refresh(source)
        if source.exists():
            (folder / target / name).parent.mkdir(parents=True, exist_ok=True)
            source.rename(folder / target / name)
            remote.put(folder / target / name)
            remote.remove(source)


def earlier(folder: Path) -> str | None:
    """Name the folder for results that the latest change has outdated; None where nothing was changed."""
    path = folder / files.SEARCH
    known = files.read_json(path).get("changes", []) if path.exists() else []
    return _place({"changes": known[:-1]}) if known else None


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted keys; those of the space without its name."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, key if prefix in ("", "space") else f"{prefix}.{key}")
    return flat


def _keep_rungs(before: SearchSpace, space: SearchSpace) -> SearchSpace:
    """Give a longer search the rungs of the shorter one, and those that follow them."""
    if before.budget.tasks == space.budget.tasks and before.budget.rungs is None:
        return space
    known = spaces.rungs(before.budget)
    wanted = {"grace": before.budget.grace, "rungs": known}
    if space.budget.tasks > before.budget.tasks:
        further, rung = [], known[-1] * space.budget.reduction_factor
        while rung < space.budget.tasks:
            further.append(rung)
            rung *= space.budget.reduction_factor
        wanted["rungs"] = [*known, *further, space.budget.tasks]
    elif space.budget.tasks < before.budget.tasks:
        return space
    return space.model_copy(update={"budget": space.budget.model_copy(update=wanted)})


def _refuse_less(folder: Path, before: SearchSpace, space: SearchSpace) -> None:
    less = [
        f"  budget.{name}: {old} there, {new} given"
        for name in ("trials", "tasks", "seeds")
        if (new := getattr(space.budget, name)) < (old := getattr(before.budget, name))
    ]
    less += [f"  algorithms: {name} is missing" for name in before.algorithms if name not in space.algorithms]
    if less:
        raise MetabenchError(
            f"{folder}: a search can be extended, not shortened; choose another --name:\n" + "\n".join(less)
        )


def _place(record: dict[str, Any]) -> str:
    return f"{EARLIER}/{len(record.get('changes', [])) + 1}"


def _boards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{files.LEADERBOARD}.*"))


def _show(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "nothing"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
