"""How to run it again: commands, versions and hashes, from what the folders recorded before they started."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from metabench.leaderboard.folders import Run, Search, short_path
from metabench.report.html.reading import Results


class Recipe(NamedTuple):
    """What one folder was made with."""

    folder: str
    commands: list[str]
    files: dict[str, str]  # to be there first: names to texts
    facts: list[tuple[str, str]]  # versions and hashes


def recipes(results: Results) -> list[Recipe]:
    """Describe every search and run folder."""
    return [*(of_search(one.search) for one in results.searches), *map(of_run, results.runs)]


def of_search(search: Search) -> Recipe:
    """Say how to repeat a search from its space."""
    config, name = search.config, search.folder.name
    space, parent = f"{name}.yaml", short_path(search.folder.parent.absolute())
    command = ["metabench", "search", space, "--out", parent, "--name", name, "--seed", str(config["seed"])]
    if config.get("warm_start"):
        command += ["--warm-start", str(config["warm_start"])]
    facts, opened = _facts(config), search.opened or {}
    for key in ("tasks_hash", "config_hash", "tasks", "opened", "times_opened"):
        if key in opened:
            facts.append((f"meta-test: {key.replace('_', ' ')}", str(opened[key])))
    for change in config.get("changes", []):
        facts.append((f"changed on {change['date']}", ", ".join(change["changed"])))
    text = yaml.safe_dump(_without_none(config["space"]), sort_keys=False, allow_unicode=True)
    return Recipe(short_path(search.folder), [*_setup(config), shlex.join(command)], {space: text}, facts)


def of_run(run: Run) -> Recipe:
    """Say how to repeat a run from its configuration."""
    folder, file = short_path(run.folder), f"{run.folder.name}.json"
    facts = [*_facts(run.config), ("configuration", str(run.config.get("config_hash", "")))]
    commands = [*_setup(run.config), shlex.join(["metabench", "train", "--config", file, "--out", folder])]
    if run.test is not None:
        facts.append(("test tasks", str(run.test["tasks_hash"])))
        n_tasks = ["--tasks", str(run.test["tasks"])] if "tasks" in run.test else []
        commands.append(shlex.join(["metabench", "test", folder, *n_tasks]))
    record = {key: run.config[key] for key in ("protocol", "data_fingerprint", "run")}
    return Recipe(folder, commands, {file: json.dumps(record, indent=1)}, [fact for fact in facts if fact[1]])


def _setup(config: Mapping[str, Any]) -> list[str]:
    """Return the commands that bring back sources and libraries."""
    versions = {key: value for key, value in config.get("versions", {}).items() if value}
    wanted = [f"{name}=={number}" for name, number in versions.items() if name not in ("python", "metabench")]
    commit = str(config.get("commit") or "").removesuffix("-dirty")
    commands = [shlex.join(["git", "checkout", commit])] if commit else []
    return [*commands, shlex.join(["pip", "install", *wanted])] if wanted else commands


def _facts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    commit = config.get("commit")
    facts = {
        "protocol": config.get("protocol"),
        "seed": config.get("seed", config.get("run", {}).get("seed")),
        "data": config.get("data_fingerprint"),
        "code": config.get("code"),
        "commit": commit,
        "sources": "had changes that no commit holds" if str(commit or "").endswith("-dirty") else None,
        "started": config.get("created"),
        "device": config.get("device"),
        **{f"version of {name}": number for name, number in config.get("versions", {}).items()},
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
