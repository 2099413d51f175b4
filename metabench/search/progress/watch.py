"""What a person sees of a search: what its terminal shows, lines of its trials; running.json; TensorBoard."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import metabench.leaderboard as board
from metabench.core import Objective, OutOfOrder, metrics, utc_now
from metabench.core.config import SearchSpace, amount, limit
from metabench.core.metrics import METRICS, Metric
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import PRUNED, RUNNING, WAITS, WORK, Happened, Ledger, Trial
from metabench.search.progress import summary
from metabench.search.progress.final_rows import FinalRows, run_folder
from metabench.search.progress.summary import STATES, leaders, outlook
from metabench.search.progress.terminal import Terminal
from metabench.storage import files, remote
from metabench.storage.tensorboard import Events

SEARCH_RUN = "_search"
LEADERBOARD_RUN = "_leaderboard"

SNAPSHOT_SECONDS = 1.0
"""Least time between two writings of running.json, however fast trials report and end."""

SLOWER_IN_STORAGE = 5
"""How many times longer that is where each writing is a request."""

NAMED = 3
"""Most trials an algorithm of which a line says that noise may have stopped them."""


class Watch:
    """Tell how a search goes, on its terminal, in running.json and in TensorBoard."""

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        quiet: bool = False,
        objective: Objective = OBJECTIVES["classification"],
        terminal: Terminal | None = None,
    ) -> None:
        self.folder = folder
        self.space = space
        self.objective = objective
        self.terminal = terminal or Terminal(quiet)
        self.say = self.terminal.say
        self.slots: int | None = None
        self.nodes: Callable[[], list[dict[str, Any]]] = list
        """Returns the nodes of the cluster."""
        self.until: datetime.datetime | None = None
        """When a search within a time is to end."""
        self._written = 0.0
        self._is_stale = False
        self._led: tuple[int, dict[str, dict[str, Any]]] | None = None
        self._ledger: Ledger | None = None  # while it is shown
        self._events: Events | None = None
        self.rows: FinalRows | None = None
        """The final runs, once they are known."""
        self._jobs: dict[str, float] = {}  # what runs, and since when

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal out where Tune pickles its callbacks."""
        return {}

    @contextlib.contextmanager
    def showing(self, ledger: Ledger) -> Iterator[None]:
        """Show what runs, from the search on."""
        self.terminal.enter(summary.STAGES[0])
        self._ledger, self._events = ledger, Events(self.folder / files.TENSORBOARD / SEARCH_RUN)
        try:
            self._snapshot(ledger)
            yield
        finally:
            # Who leaves because the storage is out of order is to hear of it, and not of this.
            with contextlib.suppress(OutOfOrder):
                if self._is_stale:
                    self._snapshot(ledger)
                self._events.close()
                if self.rows is not None:
                    self.rows.close()
                self._ledger = self._events = self.rows = None
                remote.remove(self.folder / files.RUNNING)

    def refresh(self, ledger: Ledger) -> None:
        """Show the present state, now or as soon as the last one has stood for a moment."""
        self._is_stale = True
        self.catch_up(ledger)

    def catch_up(self, ledger: Ledger) -> None:
        """Show what has changed, once the last state has stood for a moment."""
        pause = SNAPSHOT_SECONDS * (1 if remote.mirror_of(self.folder) is None else SLOWER_IN_STORAGE)
        if self._is_stale and time.monotonic() - self._written > pause:
            self._snapshot(ledger)

    def beside(self, jobs: Iterable[str], n_ended: int) -> bool:
        """Show which jobs run, and how many have ended; let the others follow."""
        self.terminal.advance(n_ended)
        self._note(jobs)
        if self._ledger is not None:
            self.refresh(self._ledger)
        return True

    def _note(self, jobs: Iterable[str]) -> None:
        now = time.monotonic()
        self._jobs = {name: self._jobs.get(name, now) for name in jobs}

    def ended(self, ledger: Ledger, name: str) -> None:
        """Show that a trial ended, and say of the first few that noise may have stopped them."""
        self.refresh(ledger)
        trial = ledger.trials[name]
        # Of who is stopped where it waits, the line that it waits has told all.
        has_waited = trial.status == PRUNED and Happened(WAITS, name, trial.tasks_seen) in ledger.history
        if not self.terminal.is_live and not has_waited:
            self.say(self._standing(ledger, trial))
        borderline = (other for other in ledger.of(trial.algorithm) if other.is_borderline)
        if not trial.is_borderline or len(list(itertools.islice(borderline, NAMED + 1))) > NAMED:
            return
        details = trial.details[trial.tasks_seen]
        gap, noise = (metrics.gap(self.objective.metric, details[key]) for key in ("margin", "paired_se"))
        self.say(
            f"{name} was stopped {gap} short of the cut-off at {trial.tasks_seen} tasks, within the noise "
            f"of {details['tasks']} validation tasks ({noise}); more validation_tasks, or borderline_tasks, "
            "would tell"
        )

    def waits(self, ledger: Ledger, name: str) -> None:
        """Show that a trial waits."""
        if not self.terminal.is_live:
            self.say(self._standing(ledger, ledger.trials[name]))

    def _standing(self, ledger: Ledger, trial: Trial) -> str:
        count: int | str = len(ledger.trials) - len(ledger.running()) - ledger.n_infeasible.total()
        budget = self.space.budget
        if (most := limit(budget)) is None:
            total = sum(spaces.of(self.space, algorithm).n_trials for algorithm in self.space.algorithms)
            count = f"{count}/{total}"
        else:
            spent = ledger.spent(trial.algorithm, budget.unit)
            count = f"{count}; {trial.algorithm} {amount(spent)} of {amount(most, budget.unit)}"
        figure = ""
        if trial.score is not None:
            value = self.objective.metric.sign * trial.score
            figure = f", {metrics.tell(self.objective.metric, value)} on meta-validation"
        reason = f": {trial.error.splitlines()[-1]}" if trial.error else ""
        return f"[{count}] {trial.name} {trial.state} after {trial.tasks_seen} tasks{figure}{reason}"

    def sum_up(self, ledger: Ledger) -> None:
        """Count the trials that were stopped within the noise, and say what was left over."""
        unit, most = self.space.budget.unit, limit(self.space.budget)
        for algorithm in self.space.algorithms:
            its, spent = spaces.of(self.space, algorithm), ledger.spent(algorithm, unit)
            n_trials, budgeted = its.n_trials, self.space.budget.trials
            if 1 < n_trials < budgeted:
                self.say(f"{algorithm}: all {n_trials} settings of its space are tried, of {budgeted} trials")
            elif most is not None and 0 < spent < most and 1 < n_trials <= ledger.n_tried(algorithm):
                self.say(
                    f"{algorithm}: {n_trials} trials took {amount(spent)} of {amount(most, unit)}; raise "
                    "budget.trials"
                )
        for algorithm, led in leaders(self.space, ledger).items():
            self.say(f"{algorithm}: {outlook(self.objective.metric, led['hourly_gain'])}")
        stopped = [trial for trial in ledger.trials.values() if trial.status == PRUNED]
        count = Counter(trial.algorithm for trial in stopped if trial.is_borderline)
        if count:
            listed = ", ".join(f"{algorithm} {n}" for algorithm, n in count.items())
            self.say(
                f"of {len(stopped)} trials stopped early, {count.total()} were within the noise of their "
                f"validation tasks: {listed}"
            )

    def _snapshot(self, ledger: Ledger) -> None:
        running = {
            trial.name: {
                "algorithm": trial.algorithm,
                "hyperparameters": trial.hyperparameters,
                **(trial.reports or [{}])[-1],
            }
            for trial in ledger.unfinished()
        }
        snapshot = {
            "updated": utc_now().isoformat(timespec="seconds"),
            "until": self.until and self.until.isoformat(timespec="seconds"),
            "stage": self.terminal.stage,
            "elapsed": time.monotonic() - self.terminal.begun,
            "phases": self.terminal.counted(),
            "workers": self._workers(ledger),
            "slots": self.slots,
            "nodes": self.nodes(),
            "trials": running,
            "leaders": self._leaders(ledger) if self.terminal.stage == summary.STAGES[0] else {},
        }
        metric = self.objective.metric
        standing = summary.stand(self.folder, self.space, ledger, metric, self._planned, snapshot)
        self.terminal.update(standing, summary.table(standing["algorithms"], metric))
        if self._events is not None:
            seen = sum(part["tasks_seen"] for part in standing["algorithms"].values())
            self._events.scalars(seen, progress(standing["algorithms"], metric, self.slots))
            self._events.flush()
        if self.rows is not None:
            self.rows.catch_up()
        files.write_json(self.folder / files.RUNNING, snapshot)
        self._written = time.monotonic()
        self._is_stale = False

    def _leaders(self, ledger: Ledger) -> dict[str, dict[str, Any]]:
        """Ask the model whom it expects most of, once between two scores."""
        n_scored = ledger.n_scored.total()
        if self._led is None or self._led[0] != n_scored:
            self._led = n_scored, leaders(self.space, ledger)
        return self._led[1]

    def _workers(self, ledger: Ledger) -> list[dict[str, Any]]:
        """Say what runs, how far it is and towards what; of trials, where their last reports were."""
        ways: dict[str, tuple[int, int]] = {}
        if self.terminal.stage == summary.STAGES[0]:
            running = ledger.running()
            self._note(trial.name for trial in running)
            ways = {trial.name: self._way(trial) for trial in running if self._has_begun(trial)}
        elif self.terminal.stage == summary.STAGES[2]:
            tasks = self.space.budget.tasks
            reports = summary.last_reports(self.folder)
            ways = {name: (line.get("tasks_seen", 0), tasks) for name, line in reports.items()}
        now = time.monotonic()
        return [
            {"name": name, "seconds": now - since}
            | (dict(zip(("tasks_seen", "to"), ways[name], strict=True)) if name in ways else {})
            for name, since in self._jobs.items()
        ]

    def _way(self, trial: Trial) -> tuple[int, int]:
        """Return the tasks that a trial has seen, and at how many it reports next."""
        return trial.tasks_seen, spaces.next_rung(self.space.budget, trial.tasks_seen)

    def _has_begun(self, trial: Trial) -> bool:
        """Tell whether a worker trains already, and is not being started; in storage that is not seen."""
        is_stored = remote.mirror_of(self.folder) is not None
        return bool(trial.reports) or is_stored or (self.folder / WORK / trial.name).exists()

    @functools.cached_property
    def _planned(self) -> dict[str, int]:
        return spaces.planned(self.space)


def progress(
    summaries: Mapping[str, Mapping[str, Any]], metric: Metric, slots: int | None
) -> dict[str, float]:
    """Name what the summaries of a search's algorithms say as TensorBoard shows it."""
    counts = {state: sum(part[state] for part in summaries.values()) for state in STATES}
    values = {f"trials/{state}": float(count) for state, count in counts.items()}
    if slots:
        values["system/utilisation"] = min(1.0, counts[RUNNING] / slots)
    for rung in next(iter(summaries.values()))["rungs"]:
        values[f"rungs/{rung}"] = float(sum(part["rungs"][rung] for part in summaries.values()))
    for algorithm, part in summaries.items():
        values[f"spent/tasks/{algorithm}"] = float(part["tasks_seen"])
        values[f"spent/seconds/{algorithm}"] = part["seconds"]
        if part["incumbent"] is not None:
            values[f"{metric}/so_far/{algorithm}"] = part["incumbent"][f"val_{metric}"]
    return values


def write_leaderboard(folder: Path) -> None:
    """Write the leaderboard's files, and show it in TensorBoard unless it is what stood there before."""
    path = folder / f"{files.LEADERBOARD}.json"
    before = files.recover(path)
    if not board.write(folder) or (leaderboard := files.read_json(path)) == before:
        return
    events = Events(folder / files.TENSORBOARD / LEADERBOARD_RUN)
    events.text("leaderboard", board.as_markdown(leaderboard, in_parts=True))
    events.close()
    metric = METRICS[leaderboard["metric"]["name"]]
    for row in leaderboard["rows"]:
        if row.get(metric.name) is not None:
            show_result(folder, row, metric)


def show_result(folder: Path, row: Mapping[str, Any], metric: Metric) -> None:
    """Add a row's result, with its interval, to the row's run of TensorBoard."""
    name = f"meta_test/{metric}"
    values = {name: row[metric.name], f"{name}/low": row.get("ci_low"), f"{name}/high": row.get("ci_high")}
    values[f"{name}/one_at_a_time"] = row.get(f"{metric}_one_at_a_time")
    events = Events(run_folder(folder, f"{row['algorithm']}-{row['variant']}"))
    seen = int(row.get("training_tasks") or 0)
    events.scalars(seen, {key: value for key, value in values.items() if value is not None})
    events.close()
