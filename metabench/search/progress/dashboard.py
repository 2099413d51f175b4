"""What TensorBoard shows of a search as a whole: how it gets on, and its leaderboard afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metabench import leaderboard
from metabench.core import Objective
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import COMPLETE, DIVERGED, FAILED, PRUNED, Ledger, Trial
from metabench.storage import files
from metabench.storage.tensorboard import Events

SEARCH_RUN = "_search"
LEADERBOARD_RUN = "_leaderboard"


class Progress:
    """The run of the search itself, over the meta-train tasks that all trials have seen."""

    def __init__(self, folder: Path, space: SearchSpace, objective: Objective) -> None:
        self.space = space
        self.objective = objective
        self._events = Events(folder / files.TENSORBOARD / SEARCH_RUN)

    def show(self, ledger: Ledger, slots: int | None) -> None:
        """Write where the search stands."""
        trials = list(ledger.trials.values())
        count = Counter(trial.status for trial in trials)
        values = {f"trials/{status}": float(count[status]) for status in (COMPLETE, PRUNED, DIVERGED, FAILED)}
        values["trials/running"] = float(count[None])
        if slots:
            values["system/utilisation"] = min(1.0, count[None] / slots)
        for rung in spaces.rungs(self.space.budget):
            values[f"rungs/{rung}"] = float(sum(trial.tasks_seen >= rung for trial in trials))
        for algorithm in self.space.algorithms:
            own = ledger.of(algorithm)
            values |= self._of(algorithm, own)
        self._events.scalars(sum(trial.tasks_seen for trial in trials), values)
        self._events.flush()

    def close(self) -> None:
        """Write what is pending."""
        self._events.close()

    def _of(self, algorithm: str, trials: list[Trial]) -> dict[str, float]:
        seconds = sum(trial.reports[-1]["seconds"] for trial in trials if trial.reports)
        found = {
            f"spent/tasks/{algorithm}": float(sum(trial.tasks_seen for trial in trials)),
            f"spent/seconds/{algorithm}": float(seconds),
        }
        scored = [trial for trial in trials if trial.score is not None]
        if scored:
            best = max(scored, key=lambda trial: (trial.tasks_seen, trial.score or 0.0))
            found[f"incumbent/{algorithm}"] = self.objective.sign * (best.score or 0.0)
        return found


def write_leaderboard(folder: Path) -> None:
    """Write the leaderboard's files, and show it in TensorBoard unless it is what stood there before."""
    path = folder / f"{files.LEADERBOARD}.json"
    before = files.read_json(path) if path.exists() else None
    if leaderboard.write(folder) and files.read_json(path) != before:
        _show(folder, files.read_json(path))


def _show(folder: Path, found: Mapping[str, Any]) -> None:
    text = leaderboard.as_markdown(found, in_parts=True)
    events = Events(folder / files.TENSORBOARD / LEADERBOARD_RUN)
    events.text("leaderboard", text)
    metric = found["metric"]["name"]
    for row in found["rows"]:
        name = f"meta_test/{row['algorithm']}-{row['variant']}"
        if row.get(metric) is not None:
            values = {name: row[metric], f"{name}/low": row.get("ci_low"), f"{name}/high": row.get("ci_high")}
            events.scalars(0, {tag: value for tag, value in values.items() if value is not None})
    events.close()


def layout(metric: str) -> dict[str, dict[str, list[str] | tuple[str, str, str]]]:
    """Return the charts of TensorBoard's custom scalars: patterns of tags, or a value with its interval."""
    validation = f"meta_validation/{metric}"
    return {
        "meta-validation": {
            f"{metric} with its interval": (validation, f"{validation}/low", f"{validation}/high"),
            "loss": ["meta_validation/loss"],
        },
        "search": {
            "best so far": [r"incumbent/.*"],
            "trials": [r"trials/.*"],
            "trials at rungs": [r"rungs/.*"],
            "tasks spent": [r"spent/tasks/.*"],
        },
        "early stopping": {"score and cut-off": [validation, "asha/cutoff"], "margin": ["asha/margin"]},
        "learning rates": {"learned inner rates": [r"lr/inner/?.*"], "outer rate": [r"lr/outer/?.*"]},
    }
