"""The search folder: started, or found to hold the very same search, or refused."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import Any, Literal

import yaml

from metabench import PROTOCOL, __version__, spaces, store
from metabench.config import SearchSpace
from metabench.core import MetabenchError, Splits
from metabench.events import Events
from metabench.objectives import OBJECTIVES

Resume = Literal["auto", "never", "must"]

BEGINNINGS = {store.LOCK, store.SPACE, store.TENSORBOARD}
"""What a search that was killed before its first record may have left."""


def check_resume(folder: Path, resume: Resume) -> None:
    """Refuse to overwrite, or to continue nothing; touches no file."""
    is_search = (folder / store.SEARCH).exists()
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.exists() and not folder.is_dir():
        raise MetabenchError(f"{folder}: is a file; choose another --name")
    if resume == "must" and not is_search:
        raise MetabenchError(f"--resume must: {folder} holds no search to continue; check --out and --name")
    if resume == "never" and found - {store.LOCK}:
        raise MetabenchError(f"--resume never: {folder} is there already; choose another --name or remove it")
    if not is_search and found - BEGINNINGS:
        listed = ", ".join(sorted(found - BEGINNINGS)[:5])
        raise MetabenchError(
            f"{folder}: holds something else than a search ({listed}); choose another --name"
        )


def claim(folder: Path, space: SearchSpace, splits: Splits, seed: int) -> bool:
    """Record what is searched, before anything is, or refuse a folder that records something else.

    Returns:
        whether there was a search to continue.
    """
    description = {
        "protocol": PROTOCOL,
        "seed": seed,
        "data_fingerprint": splits.fingerprint,
        "space": space.model_dump(mode="json"),
    }
    if (folder / store.SEARCH).exists():
        _refuse_changes(folder, store.read_json(folder / store.SEARCH), description)
        return True
    root = folder / store.TENSORBOARD
    shutil.rmtree(root, ignore_errors=True)
    parameters = {algorithm: spaces.parameters(space, algorithm) for algorithm in space.algorithms}
    text = yaml.safe_dump(
        space.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
    )
    events = Events(root)
    metrics = (OBJECTIVES[splits.kind].metric, "loss")
    events.hparams_root(parameters, [f"meta_validation/{metric}" for metric in metrics])
    events.text("search", f"```yaml\n{text}```")
    events.close()
    store.write_text(folder / store.SPACE, text)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {**description, "version": __version__, "created": created, **store.environment()}
    store.write_json(folder / store.SEARCH, record)  # last: from here on there is a search to continue
    return False


def _refuse_changes(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = (_flatten({key: found.get(key) for key in now}) for found in (before, store.plain(now)))
    changed = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    if changed:
        lines = [f"  {key}: {_show(old, key)} there, {_show(new, key)} given" for key in changed]
        raise MetabenchError(
            f"{folder}: holds another search; choose another --name, or undo what is different:\n"
            + "\n".join(lines)
        )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flatten(item, f"{prefix}.{key}".removeprefix(".space.").removeprefix("."))
    return flat


def _show(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "nothing"
