"""What the files of a search or run folder say, finished or still growing; reads only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from metabench.core import MetabenchError
from metabench.storage import files

Record = dict[str, Any]

TASK_KEYS: Mapping[str, Any] = {
    **dict.fromkeys(("dataset", "split", "options", "way", "shot", "test_query")),
    "most_shots": None,
    "unlabelled": 0,
    "distractors": 0,
    "domains": "any",
}
"""What tasks must have in common, with what it is in folders that do not say it."""
"""What meta-test tasks depend on; queries of meta-training are an algorithm's own affair."""


BASELINES = (files.NEAREST_MEAN, files.ZERO)

EARLIER = "earlier"
"""Where a search keeps what it had before it was extended."""


class Run(NamedTuple):
    """A training run as far as it got."""

    folder: Path
    config: Record
    reports: list[Record]
    test: Record | None  # None until meta-test was opened
    parameters: int | None  # numbers learnt across tasks; None until there are weights

    @property
    def is_trained(self) -> bool:
        """Tell whether training reached its budget, or diverged."""
        last = self.reports[-1] if self.reports else None
        return bool(last and (last["tasks_seen"] >= self.config["run"]["tasks"] or not last["finite"]))


class Search(NamedTuple):
    """A search as far as it got."""

    folder: Path
    config: Record
    trials: list[Record]  # ended
    running: list[Record]  # latest reports, with "trial" and "algorithm"
    chosen: dict[str, Record | None]
    runs: dict[tuple[str, str], list[Run]]  # (algorithm, "tuned" or "default") to one run a seed
    baselines: dict[str, Record]  # by name: what learns nothing, on the meta-test tasks
    opened: Record | None  # the latest opening of meta-test
    times_opened: int

    @property
    def is_finished(self) -> bool:
        """Tell whether meta-test was opened and every final run scored."""
        return self.opened is not None and self.opened.get("finished") is not None


def read(folder: Path) -> Search | Run:
    """Read a search folder or a run folder; any other folder is a MetabenchError."""
    if (folder / files.SEARCH).is_file():
        return read_search(folder)
    if (folder / files.CONFIG).is_file():
        return read_run(folder)
    why = "holds neither a search nor a run" if folder.is_dir() else "no such folder"
    raise MetabenchError(
        f"{folder}: {why}; give folders made by `metabench search` or `metabench train`, "
        f"which hold {files.SEARCH} or {files.CONFIG}"
    )


def read_run(folder: Path) -> Run:
    """Read a run folder."""
    reports = files.read_lines(folder / files.REPORTS)
    test, parameters = _optional(folder / files.TEST), _parameters(folder / files.WEIGHTS)
    return Run(folder, files.read_json(folder / files.CONFIG), reports, test, parameters)


def read_search(folder: Path) -> Search:
    """Read a search folder."""
    trials = files.read_trials(folder)
    snapshot = (_optional(folder / files.RUNNING) or {"trials": {}})["trials"]
    runs: dict[tuple[str, str], list[Run]] = {}
    for algorithm, variant, path in _final_folders(folder / files.FINAL):
        runs.setdefault((algorithm, variant), []).append(read_run(path))
    earlier = [files.read_json(path) for path in sorted(folder.glob(f"{EARLIER}/*/{files.META_TEST}"))]
    opened = _optional(folder / files.META_TEST)
    counted = (opened or {}).get("times_opened", 1 if opened else 0)
    return Search(
        folder=folder,
        config=files.read_json(folder / files.SEARCH),
        trials=list(trials.values()),
        # The snapshot may be older than the last line of trials.jsonl.
        running=[{"trial": name, **latest} for name, latest in snapshot.items() if name not in trials],
        chosen=_optional(folder / files.CHOSEN) or {},
        runs=runs,
        baselines={
            Path(name).stem: files.read_json(folder / files.FINAL / name)
            for name in BASELINES
            if (folder / files.FINAL / name).exists()
        },
        opened=opened,
        times_opened=max(counted, len(earlier) + (opened is not None)),
    )


def task_of(source: Search | Run) -> Record:
    """Return the task of a folder, as its user described it."""
    description = source.config["run" if isinstance(source, Run) else "space"]
    return dict(description["task"])


def metric_of(task: Record) -> str:
    """Return what a task is judged by: regression, and nothing else, has one way."""
    return "error" if task["way"] == 1 else "accuracy"


def told_count(count: int | Record) -> str:
    """Write ways or shots: a number, or the range of which each task draws its own."""
    return f"{count['low']}-{count['high']}" if isinstance(count, dict) else str(count)


def refuse_mixture(sources: list[Search | Run]) -> None:
    """Raise MetabenchError, naming folders, unless all results answer the same question."""
    seen: dict[str, dict[str, list[Path]]] = {}
    for source in sources:
        for path, what, value in _facts(source):
            seen.setdefault(what, {}).setdefault(value, []).append(path)
    lines = {
        what: f"  {what}: " + "; ".join(f"{value} in {_names(paths)}" for value, paths in found.items())
        for what, found in seen.items()
        if len(found) > 1
    }
    if lines:
        is_curable = lines.keys() == {"test tasks"}
        cure = ", or run `metabench test` again with the same --tasks" if is_curable else ""
        raise MetabenchError(
            f"these results cannot stand on one leaderboard; leave some folders out{cure}:\n"
            + "\n".join(lines.values())
        )


def refuse_copies(sources: list[Search | Run]) -> None:
    """Raise MetabenchError where a search is given twice, as from a disk and from its copy elsewhere."""
    seen: dict[str, Path] = {}
    for source in sources:
        if isinstance(source, Search) and source.config.get("created"):
            same = {key: source.config.get(key) for key in ("created", "seed", "space")}
            first = seen.setdefault(json.dumps(same, sort_keys=True), source.folder)
            if first != source.folder:
                raise MetabenchError(f"{first} and {source.folder} hold the same search; give it once")


def _facts(source: Search | Run) -> Iterator[tuple[Path, str, str]]:
    task = task_of(source)
    yield source.folder, "protocol", str(source.config["protocol"])
    for key, usual in TASK_KEYS.items():
        yield source.folder, key, str(task.get(key, usual))
    yield source.folder, "data", str(source.config["data_fingerprint"])[:12]
    runs = [source] if isinstance(source, Run) else [run for group in source.runs.values() for run in group]
    for run in runs:
        if run.test is not None:
            yield run.folder, "protocol", str(run.test["protocol"])
            yield run.folder, "test tasks", _tasks(run.test)
    if isinstance(source, Search):
        for name, baseline in source.baselines.items():
            yield source.folder / files.FINAL / f"{name}.json", "test tasks", _tasks(baseline)


def _tasks(test: Record) -> str:
    return f"{len(per_task(test))} tasks (hash {str(test['tasks_hash'])[:12]})"


def per_task(test: Record) -> list[float | None]:
    """Return the accuracies or errors of the tasks that were tested."""
    return list(test["error"] if "error" in test else test["accuracy"])


def _names(paths: list[Path]) -> str:
    shown = list(dict.fromkeys(map(str, paths)))
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


def _final_folders(final: Path) -> Iterator[tuple[str, str, Path]]:
    for path in sorted(final.glob("*")):
        match = re.fullmatch(r"([\w.]+)-(tuned|default)-seed\d+", path.name)
        if match and (path / files.CONFIG).is_file():
            yield match[1], match[2], path


def _parameters(weights: Path) -> int | None:
    """Count what a run has learnt across tasks, from the shapes alone."""
    if not weights.exists():
        return None
    try:
        with safe_open(weights, framework="np") as file:
            names = [name for name in file.offset_keys() if name.startswith("meta.")]
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except SafetensorError as error:
        raise MetabenchError(f"{weights}: no weights ({error}); copy the run again") from error


def _optional(path: Path) -> Record | None:
    return dict(files.read_json(path)) if path.exists() else None
