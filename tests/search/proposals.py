"""Proposals of a search played without training; run as a program, they come from a process of their own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench.core.config import SearchSpace
from metabench.search.journal.ledger import CONTINUE, Ledger
from metabench.search.journal.rule import decide
from metabench.search.propose.searcher import FairSearcher
from tests.search.conftest import SPACE
from tests.search.played import make_report

SAMPLERS = ("tpe", "random", "gp", "cma-es", "qmc")


def space_of(**budget: Any) -> SearchSpace:
    """Return a space of one algorithm that has a range, a whole number, a choice and a condition."""
    algorithms = {"maml_pp": SPACE["algorithms"]["maml_pp"]}
    return SearchSpace.model_validate(
        {**SPACE, "budget": {**SPACE["budget"], **budget}, "algorithms": algorithms}
    )


def score(values: dict[str, Any]) -> float:
    """Return a made-up accuracy, best at an inner rate of 0.3, five steps, and a fraction of 0.2."""
    gap = abs(values["inner_lr"] - 0.3) + (5 - values["inner_steps"]) / 10
    return round(0.9 - gap / 2 - abs(values["multi_step_fraction"] - 0.2), 6)


def finish(searcher: FairSearcher, config: dict[str, Any]) -> None:
    """Take a trial to its end."""
    for rung in searcher.rungs:
        report = make_report(rung, score(config["hyperparameters"]) - 10 / rung)
        if decide(searcher.ledger, searcher.space.budget, config["trial"], report) != CONTINUE:
            break
    searcher.hand_back(config["trial"])


def play(folder: Path, space: SearchSpace, restarts: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Run all trials, two at a time, so that each proposal meets a running one.

    Args:
        restarts: how many have ended when the driver is stopped and started again.
    """
    searcher = FairSearcher(space, Ledger(folder, keep=2), seed=3)
    n_trials = searcher.remaining()
    running = [searcher.suggest("0")]
    for ended in range(n_trials):
        if ended in restarts:
            searcher = FairSearcher(space, Ledger(folder, keep=2), seed=3)
            running = [searcher.suggest("again") for _ in running]
        if ended + 1 < n_trials:
            running.append(searcher.suggest(str(ended + 1)))
        # Not the oldest each time, so that trials end in another order than they were proposed in.
        finish(searcher, running.pop(ended % len(running)))
    return [trial.sampled for trial in searcher.ledger.of("maml_pp")]


def proposals(sampler: str, restarts: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Play a search with one sampler."""
    with tempfile.TemporaryDirectory() as folder:
        # A Gaussian process learns from complete trials only, so none is stopped; each takes half a second.
        rest: dict[str, Any] = {"scheduler": "none", "trials": 7} if sampler == "gp" else {"trials": 20}
        return play(Path(folder), space_of(sampler=sampler, **rest), restarts)


if __name__ == "__main__":
    sys.stdout.write(json.dumps({sampler: proposals(sampler) for sampler in SAMPLERS}))
