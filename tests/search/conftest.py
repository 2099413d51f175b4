"""A small space for everything that decides without training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from metabench.core.config import SearchSpace
from metabench.search.ray import cluster, local

SPACE: dict[str, Any] = {
    "task": {"dataset": "glyphs"},
    "network": {"width": 4},
    "budget": {
        "tasks": 900,
        "trials": 9,
        "grace": 100,
        "scheduler": "asha",
        "pause": False,
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


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep Ray's files apart; paths of sockets must be short, so not under pytest's folder."""
    with tempfile.TemporaryDirectory(prefix="mb", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        for name in cluster.ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def workers_without_torch() -> Iterator[None]:
    """Let workers of a Ray that is started here import what played trials need, not what trainings do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(local.ENVIRONMENT, "RAY_preload_python_modules")
        yield


@pytest.fixture
def space() -> SearchSpace:
    """Return two algorithms with rungs at 100, 300 and 900 tasks and a conditional setting."""
    return SearchSpace.model_validate(SPACE)
