"""Those whose speed is compared compute the same thing: every learner, by every route that is installed."""

from __future__ import annotations

import argparse
import importlib
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabench import algorithms

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def contest(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr("metabench.core.device.raise_malloc_thresholds", lambda: None)
    return importlib.import_module("contest")


def contestants(contest: ModuleType, learner: str, order: str, what: str = "train") -> Any:
    described = {"setting": "seed", "learner": learner, "order": order, "what": what, "steps": 2, "tasks": 2}
    return contest.Contest(argparse.Namespace(**described, peers="", device="cpu", precision="float32"), 1)


@pytest.mark.parametrize(
    ("learner", "order"),
    [
        *(("maml", "second"), ("maml", "first"), ("protonet", "second")),
        *(
            pytest.param(learner, order, marks=pytest.mark.slow)
            for learner, order in itertools.product(("multi_step", "anil"), ("second", "first"))
        ),
    ],
)
def test_all_find_the_same_meta_gradient(contest: ModuleType, learner: str, order: str) -> None:
    differences = contestants(contest, learner, order).check()
    assert {"ours", "loop", "vmap"} <= set(differences)
    assert max(differences.values()) < 1e-10


def test_all_predict_the_same(contest: ModuleType) -> None:
    differences = contestants(contest, "maml", "second", "evaluate").check()
    assert set(differences) >= {"ours", "loop", "vmap"}
    assert max(differences.values()) < 1e-10


def test_a_meta_gradient_of_the_wrong_order_is_noticed(contest: ModuleType) -> None:
    contenders = contestants(contest, "maml", "second")
    contenders.algorithm = algorithms.get("fomaml")
    assert contenders.check()["ours"] > 1e-2
