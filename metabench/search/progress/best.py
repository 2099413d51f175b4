"""What of a large search TensorBoard is to show: the result, the search as a whole, and the best trials."""

from __future__ import annotations

from pathlib import Path

from metabench.search.journal.ledger import look, preference
from metabench.storage import files

MOST_RUNS = 40
"""Of more, most of TensorBoard's tabs show none at first."""

MOST_TRIALS = 3
"""Of each algorithm."""


def runs(folder: Path) -> set[str]:
    """Name the runs of TensorBoard that a search folder holds."""
    root = folder / files.TENSORBOARD
    return {str(path.parent.relative_to(root)) for path in root.rglob("events.out.tfevents.*")}


def run_filter(folder: Path) -> str:
    """Return the regular expression that leaves the result, the search and the best trials."""
    ledger, names = look(folder), []
    for algorithm in dict.fromkeys(trial.algorithm for trial in ledger.trials.values()):
        judged = [trial for trial in ledger.of(algorithm) if trial.score is not None]
        names += [trial.name for trial in sorted(judged, key=preference)[:MOST_TRIALS]]
    return "|".join(["^_", *(f"/{name}$" for name in names)])
