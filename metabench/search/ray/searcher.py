"""What Tune asks for the next trial: the searcher, which knows nothing of Ray."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from metabench.search.propose.searcher import FairSearcher


class TuneSearcher(Searcher):
    """Hand out the trials of a searcher."""

    def __init__(self, searcher: FairSearcher) -> None:
        super().__init__()
        self.source = searcher  # not `searcher`: Ray would take it for a searcher of its own

    def __getstate__(self) -> dict[str, Any]:
        """Leave all out of what Tune pickles and nobody reads."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial, None for not yet, or FINISHED when all is done."""
        return self.source.suggest(trial_id)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Have what has not ended handed out again; how a trial ended the ledger knows."""
        self.source.hand_back(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the ledger is on disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a searcher is rebuilt from the ledger."""
