"""What a report is drawn from: everything that search and run folders say, read once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metabench import leaderboard
from metabench.core.config import SearchSpace
from metabench.core.metrics import SIGN
from metabench.leaderboard import folders
from metabench.leaderboard.folders import Run, Search
from metabench.leaderboard.rows import BASELINE, RUN, told_folder
from metabench.search.journal.ledger import COMPLETE, JOURNAL, Trial, look
from metabench.storage import files


class Tried(NamedTuple):
    """One trial of a search."""

    label: str  # of its algorithm, as everywhere in the report
    search: int  # position of its search
    trial: Trial
    budget: int  # meta-train tasks of a full run

    @property
    def is_full(self) -> bool:
        """Tell whether it saw the full budget."""
        return self.trial.status == COMPLETE and self.trial.tasks_seen >= self.budget


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


class Found(NamedTuple):
    """Everything that a report shows."""

    board: Mapping[str, Any]
    metric: str  # accuracy or error
    labels: tuple[str, ...]  # of what learns, in the order of the folders
    names: Mapping[tuple[str, str], str]  # algorithm and folder of a row to its label
    searches: tuple[Search, ...]
    spaces: tuple[SearchSpace, ...]  # of the searches
    trials: tuple[Tried, ...]
    arrivals: tuple[Arrived, ...]
    finals: tuple[Final, ...]
    runs: tuple[Run, ...]  # folders of single runs

    def label(self, row: Mapping[str, Any]) -> str:
        """Name a row of the leaderboard."""
        return self.names.get((row["algorithm"], row["folder"]), row["algorithm"])

    def figure(self, score: float | None) -> float | None:
        """Turn a score, higher is better, into an accuracy or error."""
        return None if score is None else SIGN[self.metric] * score


def read(places: Sequence[Path]) -> Found:
    """Read search and run folders that may stand on one leaderboard."""
    ranked = leaderboard.leaderboard(places)
    sources = [folders.read(place) for place in {place.resolve(): place for place in places}.values()]
    searches = [source for source in sources if isinstance(source, Search)]
    runs = [source for source in sources if isinstance(source, Run)]
    named = _labels(ranked["rows"])
    metric = ranked["metric"]["name"]
    finals = [*_chosen(searches, named), *_given(runs, named)]
    trials = [tried for index, search in enumerate(searches) for tried in _trials(index, search, named)]
    tried_labels = [
        named[algorithm, told_folder(search.folder)]
        for search in searches
        for algorithm in search.config["space"]["algorithms"]
    ]
    return Found(
        board=ranked,
        metric=metric,
        labels=tuple(dict.fromkeys([*tried_labels, *(final.label for final in finals)])),
        names=named,
        searches=tuple(searches),
        spaces=tuple(SearchSpace.model_validate(search.config["space"]) for search in searches),
        trials=tuple(trials),
        arrivals=tuple(arrived for search in searches for arrived in _arrivals(search, named)),
        finals=tuple(finals),
        runs=tuple(runs),
    )


def _labels(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Name what learns: by its algorithm, and by its folder too where that has several."""
    learning = dict.fromkeys(
        (row["algorithm"], row["folder"]) for row in rows if row["variant"] != BASELINE and row["folder"]
    )
    several = {algorithm for algorithm, _ in learning if sum(name == algorithm for name, _ in learning) > 1}
    short = [Path(folder).name for folder in dict.fromkeys(folder for _, folder in learning)]
    return {
        (algorithm, folder): f"{algorithm} · {_short(folder, short)}" if algorithm in several else algorithm
        for algorithm, folder in learning
    }


def _short(folder: str, names: Sequence[str]) -> str:
    name = Path(folder).name
    return name if names.count(name) == 1 else folder


def _trials(index: int, search: Search, named: Mapping[tuple[str, str], str]) -> Iterator[Tried]:
    full = search.config["space"]["budget"]["tasks"]
    for trial in look(search.folder).trials.values():
        yield Tried(named[trial.algorithm, told_folder(search.folder)], index, trial, full)


def _arrivals(search: Search, named: Mapping[tuple[str, str], str]) -> Iterator[Arrived]:
    spent: dict[str, tuple[int, float]] = {}  # by algorithm
    before: dict[str, tuple[int, float]] = {}  # by trial
    owner: dict[str, str] = {}
    for event in files.read_lines(search.folder / JOURNAL):
        if event["event"] == "proposed":
            owner[event["trial"]] = event["algorithm"]
        if event["event"] != "report":
            continue
        report, algorithm = event["report"], owner[event["trial"]]
        seen, seconds = before.get(event["trial"], (0, 0.0))
        tasks, took = spent.get(algorithm, (0, 0.0))
        spent[algorithm] = (tasks + report["tasks_seen"] - seen, took + report["seconds"] - seconds)
        before[event["trial"]] = (report["tasks_seen"], report["seconds"])
        yield Arrived(named[algorithm, told_folder(search.folder)], *spent[algorithm], report["val_score"])


def _chosen(searches: Sequence[Search], named: Mapping[tuple[str, str], str]) -> Iterator[Final]:
    for search in searches:
        for (algorithm, variant), runs in search.runs.items():
            label = named.get((algorithm, told_folder(search.folder)), algorithm)
            yield from (Final(label, variant, run) for run in runs)


def _given(runs: Sequence[Run], named: Mapping[tuple[str, str], str]) -> Iterator[Final]:
    """Name run folders as the leaderboard's rows do, of which one holds all that differ in their seed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        described = {key: value for key, value in run.config["run"].items() if key != "seed"}
        groups.setdefault(json.dumps(described, sort_keys=True), []).append(run)
    for group in groups.values():
        folder = ", ".join(told_folder(run.folder) for run in group)
        for run in group:
            algorithm = run.config["run"]["algorithm"]
            yield Final(named.get((algorithm, folder), algorithm), RUN, run)
