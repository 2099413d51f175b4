"""What each node of a cluster needs before trials start there: the data, and the very same as here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench import data, nets
from metabench.core import MetabenchError, Splits
from metabench.core.config import NetworkConfig, TaskConfig
from metabench.search.ray.cluster import adopt_driver_folders, ask_each
from metabench.storage import remote


class NodeData(NamedTuple):
    """What a node says of the data there."""

    fingerprint: str = ""  # empty where there is a problem
    problem: str = ""
    root: str = ""  # METABENCH_DATA


def needs(task: TaskConfig, name: str, kept: Sequence[Path]) -> str:
    """Say in a line which data each node needs, and where it looks for them.

    Args:
        kept: files of the cache that loading used.
    """
    sources = data.sources(task)
    files = "no files"
    if sources:
        place = sources[0] if len(sources) == 1 else sources[0].parent
        files = f"{_size(sources)} of files in {place}{_variable('METABENCH_DATA')}"
    cache = f"{_size(kept)} decoded in {remote.cache_folder()}{_variable('METABENCH_CACHE')}"
    return f"each node needs {name}: {files}, {cache if kept else 'nothing in the cache'}"


def _variable(variable: str) -> str:
    return f" ({variable})" if os.environ.get(variable) else f" ({variable} is not set)"


def _size(paths: Iterable[Path]) -> str:
    """Return how much the files, and those in the folders, take together."""
    inside = (file for path in paths for file in (path, *path.rglob("*")) if file.is_file())
    n_bytes = sum(file.stat().st_size for file in inside)
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1000:.0f} kB"


def check(address: str | None, task: TaskConfig, splits: Splits, fetch: str | None = None) -> None:
    """Load the data once on each node, which leaves them decoded there, or refuse nodes that lack them.

    Args:
        address: of the cluster; None for this machine alone, whose cache has them since they were loaded.
        fetch: whence a node without the data downloads them; None for nodes that must have them.
    """
    if address is None:
        return
    problems = []
    for name, there in ask_each(look, task.model_dump(mode="json"), fetch).items():
        if isinstance(there, Exception):
            there = NodeData(problem=str(there).strip().splitlines()[-1])
        if there.problem:
            problems.append(f"node {name}: {there.problem}")
        elif there.fingerprint != splits.fingerprint:
            problems.append(
                f"node {name}: other data than here: fingerprint {there.fingerprint[:12]} there, "
                f"{splits.fingerprint[:12]} here; METABENCH_DATA={there.root!r} there"
            )
    if problems:
        advice = (
            "To fix it, put the same files there, or set METABENCH_DATA to storage that all nodes share "
            "(on a node, before `ray start`; else yours is taken)"
        )
        if task.dataset not in data.built_in():
            advice += "; install the package that makes them on each node, of one version"
        if data.get(task.dataset).fetch is not None:
            advice += (
                f", or run `metabench datasets fetch {task.dataset}` there, or search with fetch=official"
            )
        raise MetabenchError("\n".join([*problems, advice]))


def check_network(address: str | None, network: NetworkConfig) -> None:
    """Make a torch module once on each node, or refuse nodes that lack it, or have others by its name.

    Args:
        address: of the cluster; None for this machine alone, which has made it.
    """
    if address is None or not network.is_module:
        return
    here, problems = nets.digest(network), []
    for name, there in ask_each(look_for_network, network.model_dump(mode="json")).items():
        digest, problem = ("", str(there).strip().splitlines()[-1]) if isinstance(there, Exception) else there
        if problem:
            problems.append(f"node {name}: {problem}")
        elif digest != here:
            problems.append(
                f"node {name}: another network than here: digest {digest[:12]} there, {here[:12]} here"
            )
    if problems:
        advice = (
            "To fix it, install the module's package on each node, or name its folder in PYTHONPATH before "
            "`ray start`; weights must lie at the same path, or in storage that all nodes share"
        )
        raise MetabenchError("\n".join([*problems, advice]))


def look_for_network(described: dict[str, Any]) -> tuple[str, str]:
    """Make a torch module in a worker on a node: return its digest, and what is wrong with it."""
    try:
        return nets.digest(NetworkConfig.model_validate(described)), ""
    except MetabenchError as error:
        return "", str(error)


def look(task: dict[str, Any], fetch: str | None = None) -> NodeData:
    """Load the data in a worker on a node."""
    adopt_driver_folders()
    root = os.environ.get("METABENCH_DATA", "")
    described = TaskConfig.model_validate(task)
    try:
        if fetch is not None:
            data.download(described, fetch)
        return NodeData(data.load(described).fingerprint, root=root)
    except MetabenchError as error:
        return NodeData(problem=str(error), root=root)
