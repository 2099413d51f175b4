"""How all JSON files of search and run folders are read: what does not fit its model is `Damaged`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metabench.core import MetabenchError
from metabench.storage import files, models, remote
from metabench.storage.files import Damaged
from metabench.storage.models import Model

UNSEEN = (f"{files.TENSORBOARD}/", "trials/")
"""Where a search keeps what no table needs."""

MOST_PROBLEMS = 3
"""Problems of one file that are told."""

LONGEST = 80
"""Characters of what a file says that are told."""


def open_place(place: str) -> Path:
    """Return a folder by its path, or a copy of what is at an address, without what only workers need."""
    if not remote.is_url(place):
        return Path(place)
    folder = remote.work_in(remote.check_url(place), "viewed")
    remote.refresh(folder, skip=lambda name: name.startswith(UNSEEN) or f"/{files.STATE}/" in name)
    if not (folder / files.SEARCH).exists():
        raise MetabenchError(f"{place}: holds no search; give the address of a search folder, with its name")
    return folder


def read(path: Path, model: Model) -> Any:
    """Read a JSON file; one that is missing is a MetabenchError, one that is something else is `Damaged`."""
    return fit(model, files.read_json(path), path)


def optional(path: Path, model: Model) -> Any:
    """Read a JSON file; None where there is none."""
    return None if files.is_missing(path) else read(path, model)


def lines(path: Path, model: Model) -> list[Any]:
    """Read JSON lines; [] where there is no file."""
    return [
        fit(model, value, path, f"line {number} ")
        for number, value in enumerate(files.read_lines(path), start=1)
    ]


def trials(search: Path) -> dict[str, dict[str, Any]]:
    """Return the finished trials of a search folder by name; a later line replaces an earlier one."""
    return {line["trial"]: line for line in lines(search / files.TRIALS, models.TRIAL)}


def recover(
    path: Path,
    model: Model,
    say: Callable[[str], None] = lambda text: None,
    reader: Callable[[Path, Model], Any] = read,
) -> Any:
    """Read a file that can be made again, None where there is none; a damaged one is set aside, and said."""
    return files.recover(path, say, lambda at: reader(at, model))


def is_whole(path: Path) -> bool:
    """Tell whether a file, by its name, is there and holds what it should; lines need not be there yet."""
    if path.suffix != ".jsonl" and files.is_missing(path):
        return False
    try:
        if path.suffix == ".jsonl":
            lines(path, models.BY_NAME.get(path.name, models.ANYTHING))
        else:
            read(path, models.BY_NAME.get(path.name, models.ANYTHING))
    except Damaged:
        return False
    return True


def fit(model: Model, value: Any, path: Path, where: str = "") -> Any:
    """Return a value as a model has it; `Damaged` where it does not fit."""
    try:
        return model.validate_python(value)
    except (ValidationError, RecursionError) as error:
        raise Damaged(path, where + _told(error)) from None


def _told(error: Exception) -> str:
    """Say what does not fit, in one short line."""
    if not isinstance(error, ValidationError):
        return "is nested too deeply"
    problems = error.errors(include_url=False, include_input=False)
    shown = [
        ": ".join(filter(None, (_place(item["loc"]), item["msg"][:LONGEST])))
        for item in problems[:MOST_PROBLEMS]
    ]
    more = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
    return f"holds something else than it should: {'; '.join(shown)}{more}"


def _place(parts: Sequence[int | str]) -> str:
    place = ".".join(map(str, parts))
    return place if len(place) <= LONGEST else f"{place[:LONGEST]}..."
