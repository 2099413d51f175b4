"""What a person sees of a running search: a live table on a terminal, else plain lines; and running.json."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from metabench.core import Objective, OutOfOrder, metrics
from metabench.core.config import SearchSpace
from metabench.core.objectives import OBJECTIVES
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, PRUNED, Ledger
from metabench.search.progress.dashboard import Progress
from metabench.storage import files, remote

SNAPSHOT_SECONDS = 1.0
"""Least time between two writings of running.json, however fast trials report and end."""

SLOWER_IN_STORAGE = 5
"""How many times longer that is where each writing is a request."""

DOUBTS_TOLD = 3
"""Most trials an algorithm of which a line says that noise may have stopped them."""


class Watch:
    """Tell how a search goes, on the error stream, so that the output stays clean for programs."""

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        quiet: bool = False,
        objective: Objective = OBJECTIVES["classification"],
    ) -> None:
        self.folder = folder
        self.space = space
        self.objective = objective
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.slots: int | None = None
        self.nodes: Callable[[], list[dict[str, Any]]] = list
        """Returns the nodes of the cluster."""
        self._live: Live | None = None
        self._written = 0.0
        self._is_stale = False
        self._progress: Progress | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal out where Tune pickles its callbacks."""
        return {}

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def showing(self, ledger: Ledger) -> Iterator[None]:
        """Show trials while they run."""
        self._progress = Progress(self.folder, self.space, self.objective)
        self._snapshot(ledger)
        if self.console.is_terminal and not self.console.quiet:
            self._live = Live(self._table(ledger), console=self.console, refresh_per_second=2)
            self._live.start()
        try:
            yield
        finally:
            if self._live is not None:
                self._live.stop()
                self._live = None
            # Who leaves because the storage is out of order is to hear of it, and not of this.
            with contextlib.suppress(OutOfOrder):
                if self._is_stale:
                    self._progress.show(ledger, self.slots)
                self._progress.close()
                self._progress = None
                remote.remove(self.folder / files.RUNNING)

    def refresh(self, ledger: Ledger) -> None:
        """Show the present state, now or as soon as the last one has stood for a moment."""
        self._is_stale = True
        self.catch_up(ledger)

    def catch_up(self, ledger: Ledger) -> None:
        """Show what has changed, once the last state has stood for a moment."""
        pause = SNAPSHOT_SECONDS * (1 if remote.copy_of(self.folder) is None else SLOWER_IN_STORAGE)
        if not self._is_stale or time.monotonic() - self._written <= pause:
            return
        self._snapshot(ledger)
        if self._live is not None:
            self._live.update(self._table(ledger))

    def ended(self, ledger: Ledger, name: str) -> None:
        """Show that a trial ended."""
        self.refresh(ledger)
        if self._live is None:
            self._tell_end(ledger, name)
        self._tell_doubt(ledger, name)

    def _tell_end(self, ledger: Ledger, name: str) -> None:
        trial = ledger.trials[name]
        done = len(ledger.trials) - len(ledger.unfinished())
        total = str(sum(spaces.n_trials(self.space, algorithm) for algorithm in self.space.algorithms))
        if self.space.budget.seconds is not None:
            spent = ledger.seconds(trial.algorithm)
            total = f"{trial.algorithm} {spent:.0f} of {self.space.budget.seconds:.0f} s"
        figure = ""
        if trial.score is not None:
            value = self.objective.sign * trial.score
            figure = f", {metrics.tell(self.objective.metric, value)} on meta-validation"
        reason = f": {trial.error.splitlines()[-1]}" if trial.error else ""
        count = f"{done}; {total}" if self.space.budget.seconds is not None else f"{done}/{total}"
        self.say(f"[{count}] {name} {trial.status} after {trial.tasks_seen} tasks{figure}{reason}")

    def _tell_doubt(self, ledger: Ledger, name: str) -> None:
        """Say of the first few trials of an algorithm that were stopped within the noise that they were."""
        trial = ledger.trials[name]
        if not trial.is_doubtful:
            return
        doubtful = (other for other in ledger.of(trial.algorithm) if other.is_doubtful)
        if len(list(itertools.islice(doubtful, DOUBTS_TOLD + 1))) > DOUBTS_TOLD:
            return
        basis = trial.bases[trial.tasks_seen]
        gap, noise = (metrics.gap(self.objective.metric, basis[key]) for key in ("margin", "paired_se"))
        self.say(
            f"{name} was stopped {gap} short of the cut-off at {trial.tasks_seen} tasks, within the noise "
            f"of {basis['tasks']} validation tasks ({noise}); more --validation-tasks, or borderline_tasks, "
            "would tell"
        )

    def sum_up(self, ledger: Ledger) -> None:
        """Count the trials that were stopped within the noise, and say of seconds that were left over."""
        seconds = self.space.budget.seconds
        for algorithm in self.space.algorithms:
            spent, n_trials = ledger.seconds(algorithm), spaces.n_trials(self.space, algorithm)
            if seconds is not None and spent < seconds and n_trials > 1:
                self.say(
                    f"{algorithm}: {n_trials} trials took {spent:.0f} of {seconds:.0f} s; raise budget.trials"
                )
        stopped = [trial for trial in ledger.trials.values() if trial.status == PRUNED]
        count = Counter(trial.algorithm for trial in stopped if trial.is_doubtful)
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
        if self._progress is not None:
            self._progress.show(ledger, self.slots)
        known = {"updated": _now(), "slots": self.slots, "nodes": self.nodes()}
        files.write_json(self.folder / files.RUNNING, {**known, "trials": running})
        self._written = time.monotonic()
        self._is_stale = False

    def _table(self, ledger: Ledger) -> Table:
        names = ("trials", "running", COMPLETE, PRUNED, DIVERGED, FAILED, "tasks", "best")
        table = Table(box=None, pad_edge=False, collapse_padding=True)  # fits into 80 columns
        table.add_column("algorithm")
        for name in names:
            table.add_column(name, justify="right")
        for algorithm in self.space.algorithms:
            trials = ledger.of(algorithm)
            count = Counter(trial.status for trial in trials)
            best = max((t.score for t in trials if t.score is not None), default=None)
            table.add_row(
                algorithm,
                f"{len(trials) - count[None]}/{spaces.n_trials(self.space, algorithm)}",
                *(str(count[status]) for status in (None, COMPLETE, PRUNED, DIVERGED, FAILED)),
                str(sum(trial.tasks_seen for trial in trials)),
                "-" if best is None else metrics.show(self.objective.metric, self.objective.sign * best),
            )
        return table


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
