"""Searches that were played instead of run: real ledgers, rungs and stops, made-up learning curves.

The final runs are real, of a few meta-steps on random images; what meta-test says of them is made up too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from metabench import PROTOCOL
from metabench.core import Splits
from metabench.core.config import SearchSpace
from metabench.search import space as spaces
from metabench.search.folder import create_or_resume
from metabench.search.journal.ledger import Ledger, ranked
from metabench.search.journal.rule import decide
from metabench.search.propose.searcher import FairSearcher
from metabench.search.stages import final
from metabench.storage import files
from metabench.training import run as runs
from tests.search.played import make_report

SPACE: dict[str, Any] = {
    "task": {"dataset": "glyphs", "way": 3, "query": 2, "test_query": 3},
    "network": {"width": 4},
    "budget": {
        "tasks": 2700,
        "trials": 125,
        "grace": 400,
        "scheduler": "asha",
        "pause": False,
        "reduction_factor": 2,
        "sampler": "qmc",  # the quickest to ask
        "validation_tasks": 6,
        "confirm_top": 2,
        "confirm_tasks": 6,
        "seeds": 1,
        "test_tasks": 8,
    },
    "shared": {
        "inner_lr": {"low": 0.005, "high": 5.0, "log": True, "default": 0.4},
        "outer_lr": {"low": 0.0003, "high": 0.01, "log": True, "default": 0.001},
        "inner_steps": {"choices": [1, 2, 3], "default": 2},
        "task_batch_size": {"choices": [4, 8, 16], "default": 4},
    },
    "algorithms": {
        "maml_pp": {
            "multi_step_loss": {"choices": [True, False], "default": True},
            "multi_step_fraction": {
                "low": 0.05,
                "high": 0.5,
                "default": 0.1,
                "when": {"multi_step_loss": True},
            },
        },
        "meta_sgd": {},
        "alpha_maml": {"alpha_lr": {"low": 0.0001, "high": 0.1, "log": True, "default": 0.01}},
        "protonet": {},
    },
}
"""Four algorithms, of which three learn rates of three shapes and one has no inner loop."""

FINISHED = "2026-01-01T00:00:00+00:00"


def space(trials: int = 125, algorithms: tuple[str, ...] = tuple(SPACE["algorithms"])) -> SearchSpace:
    """Return the space with so many trials an algorithm."""
    budget = {**SPACE["budget"], "trials": trials}
    chosen = {name: SPACE["algorithms"].get(name.split(".")[0], {}) for name in algorithms}
    return SearchSpace.model_validate({**SPACE, "budget": budget, "algorithms": chosen})


def accuracy(hyperparameters: dict[str, Any], share: float, noise: float) -> float | None:
    """Make up what a setting reaches after a share of the budget; None where it diverges."""
    inner, outer = hyperparameters.get("inner_lr", 0.4), hyperparameters["outer_lr"]
    if inner > 3 and outer > 0.005:
        return None
    best = 0.75 - 0.06 * math.log(inner / 0.3) ** 2 / 2 - 0.05 * math.log(outer / 0.002) ** 2
    return float(np.clip(0.2 + (max(best, 0.25) - 0.2) * (1 - math.exp(-4 * share)) + noise, 0.2, 0.98))


def play(folder: Path, space: SearchSpace, splits: Splits, until: int | None = None) -> Path:
    """Search, or do so until so many trials have begun, of which the first still runs.

    Some trials fail, some diverge.
    """
    create_or_resume(folder, space, splits, seed=0)
    ledger = Ledger(folder, space.budget.confirm_top)
    searcher = FairSearcher(space, ledger, seed=0)
    rungs = spaces.rungs(space.budget)
    rng = np.random.default_rng(0)
    for number in range(searcher.remaining() if until is None else until):
        config = searcher.suggest(str(number))
        assert isinstance(config, dict)
        if number % 97 == 50:
            ledger.fail(config["trial"], f"Traceback\nRuntimeError: no memory for {config['trial']}")
        is_left = until is not None and number in (0, until - 1)
        for rung in rungs[:1] if is_left else rungs if number % 97 != 50 else []:
            figure = accuracy(config["hyperparameters"], rung / rungs[-1], float(rng.normal(0, 0.02)))
            report = make_report(rung, figure, seconds=rung / 50 * (1 + number % 4))
            if decide(ledger, space.budget, config["trial"], report) != "continue":
                break
        if not is_left:
            searcher.hand_back(str(number))
    return folder


def finish(folder: Path, space: SearchSpace, splits: Splits, tasks: int = 8) -> Path:
    """Choose the best settings, and train and diagnose them, and one published one, for a few tasks."""
    ledger = Ledger(folder, space.budget.confirm_top)
    chosen = {}
    for algorithm in space.algorithms:
        best = ranked(ledger.of(algorithm))[0]
        chosen[algorithm] = {"trial": best.name, "hyperparameters": best.hyperparameters}
        chosen[algorithm] |= {"is_default": best.is_default, "val_accuracy": best.score}
        chosen[algorithm] |= {"confirm_accuracy": best.score}
    files.write_json(folder / files.CHOSEN, chosen)
    budget = space.budget.model_copy(update={"tasks": tasks, "grace": tasks})
    planned = final.plan(space.model_copy(update={"budget": budget}), chosen, seed=0)
    first, rng = next(iter(space.algorithms)), np.random.default_rng(0)
    for run in planned:
        if run.name.endswith("-tuned-seed0") or run.name == f"{first}-default-seed0":
            config = run.config.model_copy(update={"rungs": [tasks // 2, tasks]})
            runs.train_run(config, splits, folder / files.FINAL / run.name)
            test = {"protocol": PROTOCOL, "accuracy": rng.normal(rng.uniform(0.5, 0.8), 0.1, 40).clip(0, 1)}
            test |= {"tasks": 40, "tasks_hash": "t" * 64, "batch_norm": "transductive", "times_opened": 1}
            test |= {"classes": [" ".join(map(str, rng.permutation(6)[:3])) for _ in range(40)]}
            test |= {"class_names": list("abcdef"), "opened": FINISHED, "config_hash": "d" * 64}
            test |= {"code": "c" * 16, "commit": None}
            files.write_json(folder / files.FINAL / run.name / files.TEST, test)
    opened = {"tasks_hash": "t" * 64, "config_hash": "d" * 64, "times_opened": 1, "finished": FINISHED}
    files.write_json(folder / files.META_TEST, opened)
    return folder
