"""Searches of cells that grow, played without training; run as a program, in a process of their own.

What happens next follows from the ledger alone, so that a driver that starts again meets the same.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.journal.ledger import CONTINUE, Ledger, Trial
from metabench.search.journal.rule import decide
from metabench.search.propose.feasible import Size, SizeOf, uncounted
from metabench.search.propose.searcher import FINISHED, FairSearcher
from tests.search.conftest import SPACE
from tests.search.played import make_report

GROW = [1, 2, 4]
OPERATIONS = ["conv_3x3", "sep_conv_3x3", "max_pool_3x3", "none"]


def network(grow: list[int] | None = GROW, **options: Any) -> dict[str, Any]:
    """Return a space of cells of one to four nodes, most of which have fewer than they say."""
    cell: dict[str, Any] = {"layers": 2, "reductions": 2, "nodes": {"low": 1, "high": 4, "default": 1}}
    cell["output"] = {"choices": ["all", "last"], "default": "last"}
    for node in range(1, 5):
        when = {"when": {"nodes": list(range(node, 5))}} if node > 1 else {}
        for edge in (1, 2):
            cell[f"node{node}_in{edge}"] = {"low": 0, "high": node, "default": 1, **when}
            cell[f"node{node}_op{edge}"] = {"choices": OPERATIONS, "default": "conv_3x3", **when}
    width = {"choices": [4, 8], "default": 4}
    described = {"name": "cells", "width": width, "options": {**cell, **options}}
    return described if grow is None else {**described, "grow": grow}


RATE = {"low": 0.001, "high": 0.01, "log": True, "default": 0.002}


def space_of(
    network: dict[str, Any], also: Sequence[Any] = (), rate: Any = RATE, **budget: Any
) -> SearchSpace:
    """Return a search of one algorithm, and its rate, in that space."""
    return spaces.check(
        {
            "task": SPACE["task"],
            "network": network,
            "budget": {**SPACE["budget"], **budget},
            "algorithms": {"protonet": {"outer_lr": rate}},
            "also": [*also],
        },
        "space",
    )


def score(space: SearchSpace, trial: Trial, rung: int) -> float:
    """Make up an accuracy that is the better the more edges a cell has, and no two have."""
    cell = spaces.of(space, "protonet").cell(trial.sampled)
    assert cell is not None
    edges = [edge for node in cell.nodes for edge in node]
    return 0.3 + len(edges) / 50 + trial.hyperparameters["outer_lr"] - 10 / rung


def too_large(algorithm: str, hyperparameters: Any) -> Size:
    """Call one setting in three too large."""
    rate = hyperparameters["outer_lr"]
    return Size(10, "too large" if rate != 0.002 and int(1e6 * rate) % 3 == 0 else None)


def play(
    folder: Path, space: SearchSpace, steps: int = 10**6, workers: int = 2, size_of: SizeOf = uncounted
) -> list[Trial]:
    """Go on with a search, so many reports; of those that run, that which has seen least reports next."""
    its = spaces.of(space, "protonet")
    ledger = Ledger(folder, keep=2, place=lambda trial: its.where(trial.hyperparameters))
    searcher = FairSearcher(space, ledger, seed=3, size_of=size_of)
    handed: dict[str, str] = {}
    for step in range(steps):
        while len(handed) < workers:
            config = searcher.suggest(key := f"{step}.{len(handed)}")
            if not isinstance(config, dict):
                assert config in (None, FINISHED)
                break
            handed[config["trial"]] = key
        if not handed:
            break
        trial = min(map(ledger.trials.__getitem__, handed), key=lambda one: (one.tasks_seen, one.name))
        rung = spaces.next_rung(space.budget, trial.tasks_seen)
        report = make_report(rung, score(space, trial, rung), seconds=rung / 10)
        if decide(ledger, space.budget, trial.name, report) != CONTINUE:
            searcher.hand_back(handed.pop(trial.name))
    return ledger.of("protonet")


def proposals(**budget: Any) -> list[dict[str, Any]]:
    """Play a whole search."""
    with tempfile.TemporaryDirectory() as folder:
        return [trial.sampled for trial in play(Path(folder), space_of(network(), **budget))]


SEARCHES: dict[str, dict[str, Any]] = {
    "asha": {"trials": 18},
    "pausing": {"trials": 18, "pause": True},
    "random": {"trials": 18, "sampler": "random"},
    "qmc": {"trials": 18, "sampler": "qmc"},
    "cma-es": {"trials": 18, "sampler": "cma-es"},
    "freeze_thaw": {"trials": 15, "scheduler": "freeze_thaw"},
    "seconds": {"trials": 60, "unit": "seconds", "seconds": 1500.0},
}

if __name__ == "__main__":
    os.fsync = lambda file: None  # as in the tests' own process
    sys.stdout.write(json.dumps({name: proposals(**budget) for name, budget in SEARCHES.items()}))
