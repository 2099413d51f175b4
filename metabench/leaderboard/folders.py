"""What the files of a search or run folder say, finished or still growing; reads only."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from metabench.core import MetabenchError, metrics
from metabench.core.config import NetworkSpace, TaskConfig
from metabench.core.config.settings import n_folds
from metabench.core.config.task import LATER
from metabench.core.metrics import Metric
from metabench.storage import files, models, records
from metabench.storage.files import Damaged

Record = dict[str, Any]

TASK_KEYS = (
    *("dataset", "split", "options", "way", "shot", "test_query"),
    *("most_shots", "unlabelled", "distractors", "domains", "labels"),
)
"""What meta-test tasks depend on; queries of meta-training are an algorithm's own affair."""

BASELINES = (files.NEAREST_MEAN, files.ZERO)


def evaluated(task: Record) -> Record:
    """Return a recorded task as meta-test has it."""
    return TaskConfig.model_validate(task).evaluated.model_dump(mode="json")


class Run(NamedTuple):
    """A training run as far as it got."""

    folder: Path
    config: Record
    reports: list[Record]
    test: Record | None  # None until meta-test was opened
    row_folds: int = 1  # that its row needs: a search's all of them, a run by itself its own

    @property
    def task(self) -> Record:
        """Return the task, as its user described it."""
        return dict(self.config["run"]["task"])

    @property
    def metric(self) -> Metric:
        """Return what its tasks are judged by."""
        return metrics.recorded(self.config)

    @property
    def folds(self) -> int:
        """Return over how many cuts of the pictures its row is cross-validated."""
        return n_folds(self.task["options"])

    @property
    def fold(self) -> int:
        """Return which of these it was trained and tested on."""
        return int(self.task["options"].get("fold") or 0) if self.folds > 1 else 0

    @property
    def is_whole(self) -> bool:
        """Tell whether training reached its budget."""
        return bool(self.reports and self.reports[-1]["tasks_seen"] >= self.config["run"]["tasks"])

    @property
    def is_trained(self) -> bool:
        """Tell whether training reached its budget, or diverged."""
        return self.is_whole or bool(self.reports and not self.reports[-1]["finite"])


class Search(NamedTuple):
    """A search as far as it got."""

    folder: Path
    config: Record
    trials: list[Record]  # ended
    snapshot: Record  # of the process that drives it: trials that run, nodes; {} where none does
    chosen: dict[str, Record | None]
    runs: dict[tuple[str, str], list[Run]]  # (algorithm, "tuned" or "default") to one run a seed
    baselines: dict[str, Record]  # by name: what learns nothing, on the meta-test tasks
    opened: Record | None  # the latest opening of meta-test; "finished" once every final run was scored
    times_opened: int

    @property
    def task(self) -> Record:
        """Return the task, as its user described it."""
        return dict(self.config["space"]["task"])

    @property
    def folds(self) -> int:
        """Return over how many cuts of the pictures its rows are cross-validated."""
        return n_folds(self.task["options"])

    @property
    def metric(self) -> Metric:
        """Return what its tasks are judged by."""
        return metrics.recorded(self.config)

    def networks(self, algorithm: str) -> NetworkSpace:
        """Return the networks that trials of an algorithm choose among."""
        labelled, usual = self.config["space"].get("networks", {}), self.config["space"]["network"]
        return NetworkSpace.model_validate(labelled.get(algorithm.partition(".")[2], usual))

    def settings(self, algorithm: str, run: Run) -> Record:
        """Return a full run's settings as a trial has them: those of the network that are sampled, too."""
        described = run.config["run"]
        of_network = NetworkSpace.model_validate(described["network"]).settled
        sampled = [name for name in self.networks(algorithm).parameters if name in of_network]
        return {**described["hyperparameters"], **{name: of_network[name] for name in sampled}}

    @property
    def left_out(self) -> list[str]:
        """Say what is missing since the search was asked to finish."""
        config, said = self.config, []
        cut = {entry["stage"] for entry in config.get("finish", [])}
        budget, algorithms = config["space"]["budget"], config["space"]["algorithms"]
        judged = Counter(trial["algorithm"] for trial in self.trials if trial["tasks_seen"])
        if "search" in cut:
            planned = config.get("planned", {})
            counts = (
                f"{name} {judged[name]} of {planned.get(name, budget['trials'])}" for name in algorithms
            )
            said.append(f"trials that were judged: {', '.join(counts)}")
        if "final runs" in cut:
            tested = sum(run.test is not None for runs in self.runs.values() for run in runs)
            n_runs = len(algorithms) * (1 + budget.get("default_runs", True)) * budget["seeds"]
            said.append(f"final runs that were tested: {tested} of at most {n_runs}")
        return [f"Finished early, as was asked; {'; '.join(said)}."] if said else []

    def reported(self, algorithm: str) -> list[Record]:
        """List an algorithm's trials that ended, and the latest reports of those that run."""
        ended = {trial["trial"] for trial in self.trials}
        running = self.snapshot.get("trials", {})
        # The snapshot may be older than the last line of trials.jsonl.
        entries = [*self.trials, *(last for name, last in running.items() if name not in ended)]
        return [entry for entry in entries if entry["algorithm"] == algorithm]


def read(folder: Path) -> Search | Run:
    """Read a search folder or a run folder; any other folder is a MetabenchError."""
    if (folder / files.SEARCH).is_file():
        return read_search(folder)
    if (folder / files.CONFIG).is_file():
        return read_run(folder)
    why = "is no folder" if folder.exists() else "no such folder"
    why = "holds neither a search nor a run" if folder.is_dir() else why
    raise MetabenchError(
        f"{folder}: {why}; give folders made by `metabench search` or `metabench train`, "
        f"which hold {files.SEARCH} or {files.CONFIG}"
    )


def read_run(folder: Path) -> Run:
    """Read a run folder."""
    run = Run(
        folder,
        config=records.read(folder / files.CONFIG, models.RUN),
        reports=records.lines(folder / files.REPORTS, models.REPORT),
        test=records.optional(folder / files.TEST, models.TEST),
    )
    _check_metric(folder / files.TEST, run.test, run.metric)
    return run


def _check_metric(path: Path, result: Record | None, metric: Metric) -> None:
    if result is not None and metric.name not in result:
        raise Damaged(path, f"has no {metric}, by which its tasks are judged")


def read_search(folder: Path) -> Search:
    """Read a search folder."""
    final, opened = folder / files.FINAL, records.optional(folder / files.META_TEST, models.META_TEST)
    runs: dict[tuple[str, str], list[Run]] = {}
    for path in sorted(final.glob("*")):
        match = re.fullmatch(r"([\w.]+)-(tuned|default)-seed\d+", path.name)
        if match and (path / files.CONFIG).is_file():
            run = read_run(path)
            runs.setdefault((match[1], match[2]), []).append(run._replace(row_folds=run.folds))
    baselines = {Path(name).stem: records.optional(final / name, models.BASELINE) for name in BASELINES}
    search = Search(
        folder=folder,
        config=records.read(folder / files.SEARCH, models.SEARCH),
        trials=list(records.trials(folder).values()),
        snapshot=records.optional(folder / files.RUNNING, models.SNAPSHOT) or {},
        chosen=records.optional(folder / files.CHOSEN, models.CHOSEN) or {},
        runs=runs,
        baselines={name: one for name, one in baselines.items() if one is not None},
        opened=opened,
        times_opened=len(list(folder.glob(f"{files.EARLIER}/*/{files.META_TEST}"))) + (opened is not None),
    )
    for name, result in search.baselines.items():
        _check_metric(final / f"{name}.json", result, search.metric)
    return search


def all_runs(source: Search | Run) -> list[Run]:
    """List the runs to the full budget that a folder holds."""
    return [source] if isinstance(source, Run) else [run for group in source.runs.values() for run in group]


def validation(entry: Record, metric: Metric) -> float | None:
    """Return a trial's or report's meta-validation figure; a report holds an error as its score."""
    figure: float | None = entry.get(f"val_{metric}")
    score = entry.get("val_score")
    return metric.sign * score if figure is None and score is not None else figure


def best(entries: Iterable[Record], metric: Metric) -> Record:
    """Return the trial or report of the best meta-validation; one that diverged has none; {} without any."""
    judged = [
        (metric.sign * figure, entry)
        for entry in entries
        if (figure := validation(entry, metric)) is not None
        and entry.get("finite", True)
        and entry.get("status") not in ("diverged", "failed")
    ]
    return max(judged, key=lambda pair: pair[0], default=(0.0, {}))[1]


def accelerator_seconds(entry: Record) -> float | None:
    """Weigh the seconds before each report by the share of a GPU that it had; None where it is not known."""
    spent, before = 0.0, 0.0
    for report in entry.get("reports") or [entry]:
        if report.get("gpus") is None and report.get("seconds"):
            return None
        spent += ((report.get("seconds") or 0.0) - before) * (report.get("gpus") or 1.0)
        before = report.get("seconds") or 0.0
    return spent


def n_parameters(run: Run) -> int | None:
    """Count what a run has learnt across tasks, from the shapes alone; None until there are weights."""
    weights = run.folder / files.WEIGHTS
    if files.is_missing(weights):
        return None
    try:
        with safe_open(weights, framework="np") as file:
            names = [name for name in file.offset_keys() if name.startswith("meta.")]
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError) as error:
        raise Damaged(weights, f"holds no weights ({error})") from error


def short_path(folder: Path) -> str:
    """Name a folder as rows do."""
    # A leaderboard is published; where its author's home lies is nobody's business.
    here = Path.cwd()
    return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def refuse_mixture(sources: Sequence[Search | Run]) -> None:
    """Raise MetabenchError, naming folders, unless all answer the same question, each search once."""
    searches: dict[str, Path] = {}
    for source in sources:
        if isinstance(source, Search) and source.config.get("created"):
            same = {key: source.config.get(key) for key in ("created", "seed", "space")}
            first = searches.setdefault(json.dumps(same, sort_keys=True), source.folder)
            if first != source.folder:
                raise MetabenchError(f"{first} and {source.folder} hold the same search; give it once")
    facts: dict[str, dict[str, list[Path]]] = {}
    for source in sources:
        for path, what, value in _facts(source):
            facts.setdefault(what, {}).setdefault(value, []).append(path)
    lines = {
        what: f"  {what}: " + "; ".join(f"{value} in {_names(paths)}" for value, paths in values.items())
        for what, values in facts.items()
        if len(values) > 1
    }
    if lines:
        is_curable = lines.keys() == {"test tasks"}
        cure = ", or run `metabench test` again with the same number of tasks" if is_curable else ""
        raise MetabenchError(
            f"these results cannot stand on one leaderboard; leave some folders out{cure}:\n"
            + "\n".join(lines.values())
        )


def _facts(source: Search | Run) -> Iterator[tuple[Path, str, str]]:
    """Yield what results must have in common: where it stands, what it is, and its value."""
    task = evaluated(source.task)
    yield source.folder, "protocol", str(source.config["protocol"])
    for key in TASK_KEYS:
        yield source.folder, key, str(task.get(key, LATER.get(key)))
    yield source.folder, "data", str(source.config["data_fingerprint"])[:12]
    results = [
        (run.folder, run.test, f" of fold {run.fold}" if run.folds > 1 else "")
        for run in all_runs(source)
        if run.test is not None
    ]
    if isinstance(source, Search):
        final, of_all = source.folder / files.FINAL, " of all folds" if source.folds > 1 else ""
        results += [(final / f"{name}.json", one, of_all) for name, one in source.baselines.items()]
    for path, result, of_which in results:
        n_tasks = len(result[source.metric.name])
        yield path, "protocol", str(result["protocol"])
        yield path, f"test tasks{of_which}", f"{n_tasks} tasks (hash {str(result['tasks_hash'])[:12]})"


def _names(paths: list[Path]) -> str:
    shown = list(dict.fromkeys(map(str, paths)))
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more
