"""What a row says of control beside its return: how far that is from the best, and what it took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from metabench.core.control import ENVIRONMENT_STEPS
from metabench.core.metrics import RETURN
from metabench.leaderboard.folders import Record
from metabench.leaderboard.scores import Row

KEYS = (
    "of_oracle",  # (return - by chance) / (of who knows the environment - by chance), means over tasks
    "environment_steps",  # that one training to the full budget takes, at most
)


def of_oracle(tests: Sequence[Record]) -> Row:
    """Say how far from chance towards the best a policy came; nothing where the best is not known."""
    if any("at_best" not in test for test in tests):
        return {}
    mine, chance, best = (
        statistics.fmean(figure for test in tests for figure in test[key])
        for key in (RETURN.name, "by_chance", "at_best")
    )
    return {"of_oracle": (mine - chance) / (best - chance)} if best > chance else {}


def steps(reports: Sequence[Record]) -> Row:
    """Say how many steps in environments a training takes, the mean over its seeds' last reports."""
    logs = [report.get("logs") or {} for report in reports]
    if not all(ENVIRONMENT_STEPS in one for one in logs):
        return {}
    return {"environment_steps": round(statistics.fmean(one[ENVIRONMENT_STEPS] for one in logs))}
