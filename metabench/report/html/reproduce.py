"""How to run it again: commands, versions and hashes, from what the folders recorded before they started."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metabench import algorithms
from metabench.core.config import AugmentConfig, RunConfig
from metabench.leaderboard.folders import Run, Search
from metabench.leaderboard.rows import told_folder
from metabench.report.html.reading import Found
from metabench.storage import files


class Recipe(NamedTuple):
    """What one folder was made with."""

    folder: str
    commands: list[str]
    files: dict[str, str]  # to be there first: names to texts
    facts: list[tuple[str, str]]  # versions and hashes


def recipes(found: Found) -> list[Recipe]:
    """Describe every search and run folder."""
    return [*map(_search, found.searches), *map(_run, found.runs)]


def _search(search: Search) -> Recipe:
    config, name = search.config, search.folder.name
    space = f"{name}.yaml"
    parent = told_folder(search.folder.parent.absolute())
    command = ["metabench", "search", space, "--out", parent, "--name", name, "--seed", str(config["seed"])]
    if config.get("warm_start"):
        command += ["--warm-start", str(config["warm_start"])]
    path = search.folder / files.META_TEST
    opened = files.read_json(path) if path.exists() else {}
    facts = _facts(config)
    facts += [
        (f"meta-test: {key.replace('_', ' ')}", str(opened[key]))
        for key in ("tasks_hash", "config_hash", "tasks", "opened", "times_opened")
        if key in opened
    ]
    for change in config.get("changes", []):
        facts.append((f"changed on {change['date']}", ", ".join(change["changed"])))
    return Recipe(
        told_folder(search.folder),
        [*_setup(config), shlex.join(command)],
        {space: as_yaml(config["space"])},
        facts,
    )


def _run(run: Run) -> Recipe:
    facts = [*_facts(run.config), ("configuration", str(run.config.get("config_hash", "")))]
    commands = [*_setup(run.config), train_command(run.config["run"], run.folder)]
    if run.test is not None:
        facts.append(("test tasks", str(run.test["tasks_hash"])))
        n_tasks = ["--tasks", str(run.test["tasks"])] if "tasks" in run.test else []
        commands.append(shlex.join(["metabench", "test", told_folder(run.folder), *n_tasks]))
    return Recipe(told_folder(run.folder), commands, {}, [fact for fact in facts if fact[1]])


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


def as_yaml(space: Mapping[str, Any]) -> str:
    """Write a recorded space as a file that `metabench search` reads."""
    return str(yaml.safe_dump(_without_none(space), sort_keys=False, allow_unicode=True))


def train_command(run: Mapping[str, Any], out: Path) -> str:
    """Return the `metabench train` that describes a run: what is not a default, and all that is not a flag's.

    Every setting that a flag has is written out, so that another version's defaults do not matter; of the
    algorithm's and the distortion's, those that differ from the defaults.
    """
    config = RunConfig.model_validate(run)
    task, network = config.task, config.network
    flags: dict[str, Any] = {
        "algorithm": config.algorithm,
        "dataset": task.dataset,
        "split": task.split,
        "way": task.told_way,
        "shot": task.told_shot,
        **{key: getattr(task, key) for key in ("query", "test_query", "most_shots", "unlabelled")},
        **{key: getattr(task, key) for key in ("distractors", "domains")},
        "network": network.name,
        **{key: value for key, value in network.model_dump().items() if key != "name"},
        "tasks": config.tasks,
        "reports": len(config.rungs),
        "validation_tasks": config.validation_tasks,
        "seed": config.seed,
    }
    words = ["metabench", "train"]
    for key, value in flags.items():
        words += [] if value is None else [f"--{key.replace('_', '-')}", _typed(value)]
    usual = AugmentConfig().model_dump()
    far = {key: value for key, value in task.augment.model_dump().items() if value != usual[key]}
    defaults = dataclasses.asdict(algorithms.hparams(config.algorithm, {}))
    own = {key: value for key, value in config.hyperparameters.items() if value != defaults.get(key)}
    for flag, values in (("--option", task.options), ("--distort", far), ("--set", own)):
        for key, value in values.items():
            words += [flag, f"{key}={_typed(value)}"]
    return shlex.join([*words, "--out", told_folder(out)])


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
