"""A small space and made-up reports for everything that decides without training."""

from __future__ import annotations

from typing import Any

import pytest

from metabench.config import SearchSpace


def make_report(tasks_seen: int, accuracy: float | None, seconds: float = 1.0) -> dict[str, Any]:
    """Return a report as a trial would send it; no accuracy stands for a trial that diverged."""
    return {
        "tasks_seen": tasks_seen,
        "finite": accuracy is not None,
        "val_accuracy": accuracy,
        "val_ci": None if accuracy is None else 0.01,
        "val_loss": None if accuracy is None else 1.0,
        "train_accuracy": accuracy,
        "train_loss": None if accuracy is None else 1.0,
        "seconds": seconds,
        "peak_memory": 1,
        "logs": {},
    }


@pytest.fixture
def space() -> SearchSpace:
    """Return two algorithms with rungs at 100, 300 and 900 tasks and a conditional setting."""
    return SearchSpace.model_validate(
        {
            "task": {"dataset": "glyphs"},
            "network": {"width": 4},
            "budget": {
                "tasks": 900,
                "trials": 9,
                "grace": 100,
                "reduction_factor": 3,
                "validation_tasks": 10,
                "confirm_top": 2,
                "confirm_tasks": 10,
                "seeds": 2,
                "test_tasks": 20,
            },
            "shared": {
                "inner_lr": {"low": 0.01, "high": 1.0, "log": True, "default": 0.1},
                "inner_steps": {"low": 1, "high": 5, "default": 1},
            },
            "algorithms": {
                "maml": {},
                "maml_pp": {
                    "multi_step_loss": {"choices": [True, False], "default": True},
                    "multi_step_fraction": {
                        "low": 0.05,
                        "high": 0.5,
                        "default": 0.1,
                        "when": {"multi_step_loss": True},
                    },
                },
            },
        }
    )
