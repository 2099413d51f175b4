"""What a report is drawn from: everything that search and run folders say, read once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import metabench.leaderboard as leaderboard
from metabench.core import MetabenchError, metrics
from metabench.core.config import SearchSpace
from metabench.core.metrics import Metric
from metabench.leaderboard.folders import Run, Search, short_path
from metabench.leaderboard.rows import BASELINE, DEFAULT, RUN, group_seeds
from metabench.search.journal.ledger import COMPLETE, JOURNAL, Ledger, Trial, look
from metabench.storage import files

Names = Mapping[tuple[str, str], str]
"""Algorithm and folder of a row to its label."""


class Searched(NamedTuple):
    """One search, its journal read once."""

    search: Search
    space: SearchSpace
    labels: Mapping[str, str]  # of its algorithms
    ledger: Ledger


class Tried(NamedTuple):
    """One trial of a search."""

    label: str  # of its algorithm, as everywhere in the report
    space: SearchSpace
    trial: Trial

    @property
    def is_full(self) -> bool:
        """Tell whether it saw the full budget."""
        return self.trial.status == COMPLETE and self.trial.tasks_seen >= self.space.budget.tasks


class Arrived(NamedTuple):
    """One meta-validation of a trial, in the order in which the search heard of them."""

    label: str
    tasks: int  # seen by all trials of the algorithm until then
    seconds: float  # that they took
    score: float | None  # higher is better


class Final(NamedTuple):
    """A run to the full budget: of a chosen or published setting, or given by itself."""

    label: str
    variant: str  # tuned, default or run
    run: Run


def named(number: int, final: Final) -> tuple[str, str]:
    """Name the picture of a run's episodes for its files, and in words."""
    name = re.sub("[^a-z0-9]+", "_", final.label.lower()).strip("_")
    return (
        f"episodes_{number}_{name}",
        f"{final.label}, {final.variant}, seed {final.run.config['run']['seed']}",
    )


Part = TypeVar("Part", Tried, Arrived, Final)


class Results(NamedTuple):
    """Everything that a report shows."""

    board: Mapping[str, Any]
    metric: Metric  # accuracy or error
    labels: tuple[str, ...]  # of what learns, in the order of the folders
    names: Names
    searches: Sequence[Searched]
    trials: Sequence[Tried]
    arrivals: Sequence[Arrived]
    finals: Sequence[Final]
    runs: Sequence[Run]  # folders of single runs

    def label(self, row: Mapping[str, Any]) -> str:
        """Name a row of the leaderboard by what learns."""
        return self.names.get((row["algorithm"], row["folder"]), row["algorithm"])

    def searched(self, row: Mapping[str, Any]) -> set[str]:
        """Name the settings that were searched where a row comes from."""
        label = self.label(row)
        return {name for tried in self.trials if tried.label == label for name in tried.trial.sampled}

    def name(self, row: Mapping[str, Any]) -> str:
        """Name a row of the leaderboard whole."""
        return f"{self.label(row)} {row['variant']}"

    def learners(self) -> list[Final]:
        """Pick the first seed of each tuned setting, and each run, that has weights: best first."""
        order = dict.fromkeys(self.label(row) for row in self.board["rows"])
        finals = [f for f in self.finals if f.variant != DEFAULT and (f.run.folder / files.WEIGHTS).exists()]
        first = {final.label: final for final in reversed(finals)}
        return [first[label] for label in order if label in first]

    def by_label(self, parts: Iterable[Part]) -> dict[str, list[Part]]:
        """Group what has a label, in the order of the labels."""
        groups: dict[str, list[Part]] = {label: [] for label in self.labels}
        for part in parts:
            groups[part.label].append(part)
        return {label: group for label, group in groups.items() if group}

    def figure(self, score: float | None) -> float | None:
        """Turn a score, higher is better, into an accuracy or error."""
        return None if score is None else self.metric.sign * score

    def show(self, score: float | None) -> str:
        """Write the accuracy or error of a score."""
        return metrics.show(self.metric, self.figure(score))

    def without_trials(self) -> str:
        """Say why there is nothing to draw of trials."""
        return "no trial has reported yet" if self.searches else "there is no search among the folders"


def read(places: Sequence[Path]) -> Results:
    """Read search and run folders that may stand on one leaderboard."""
    if not places:
        raise MetabenchError("a report needs at least one folder of a search or a run")
    sources = leaderboard.read(places)
    ranked = leaderboard.assemble(sources)
    names = _names(ranked["rows"])
    searches = [_searched(source, names) for source in sources if isinstance(source, Search)]
    runs = [source for source in sources if isinstance(source, Run)]
    finals = [
        Final(one.labels.get(algorithm, algorithm), variant, run)
        for one in searches
        for (algorithm, variant), group in one.search.runs.items()
        for run in group
    ]
    finals += _single(runs, names)
    labels = [*(label for one in searches for label in one.labels.values()), *(one.label for one in finals)]
    return Results(
        board=ranked,
        metric=sources[0].metric,
        labels=tuple(dict.fromkeys(labels)),
        names=names,
        searches=searches,
        trials=[
            Tried(one.labels[trial.algorithm], one.space, trial)
            for one in searches
            for trial in one.ledger.trials.values()
        ],
        arrivals=[arrived for one in searches for arrived in _arrivals(one)],
        finals=finals,
        runs=runs,
    )


def _searched(search: Search, names: Names) -> Searched:
    space = SearchSpace.model_validate(search.config["space"])
    folder = short_path(search.folder)
    labels = {algorithm: names.get((algorithm, folder), algorithm) for algorithm in space.algorithms}
    return Searched(search, space, labels, look(search.folder, search.config.get("outside", [])))


def _single(runs: Sequence[Run], names: Names) -> Iterator[Final]:
    """Name run folders as the leaderboard's rows do, of which one holds all that differ in their seed."""
    for group in group_seeds(runs):
        algorithm = group[0].config["run"]["algorithm"]
        folder = ", ".join(short_path(run.folder) for run in group)
        yield from (Final(names.get((algorithm, folder), algorithm), RUN, run) for run in group)


def _names(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Name what learns: by its algorithm, and by its folder too where that has several."""
    learning = dict.fromkeys(
        (row["algorithm"], row["folder"]) for row in rows if row["variant"] != BASELINE and row["folder"]
    )
    times = Counter(algorithm for algorithm, _ in learning)
    short = Counter(Path(folder).name for folder in {folder: None for _, folder in learning})
    names = {}
    for algorithm, folder in learning:
        where = Path(folder).name if short[Path(folder).name] == 1 else folder
        names[algorithm, folder] = f"{algorithm} · {where}" if times[algorithm] > 1 else algorithm
    return names


def _arrivals(one: Searched) -> Iterator[Arrived]:
    spent: dict[str, tuple[int, float]] = {}  # by algorithm
    before: dict[str, tuple[int, float]] = {}  # by trial
    for event in files.read_lines(one.search.folder / JOURNAL):
        if event["event"] != "report":
            continue
        report, algorithm = event["report"], one.ledger.trials[event["trial"]].algorithm
        seen, seconds = before.get(event["trial"], (0, 0.0))
        tasks, took = spent.get(algorithm, (0, 0.0))
        spent[algorithm] = (tasks + report["tasks_seen"] - seen, took + report["seconds"] - seconds)
        before[event["trial"]] = (report["tasks_seen"], report["seconds"])
        yield Arrived(one.labels[algorithm], *spent[algorithm], report["val_score"])
