"""What a meta-gradient costs on a GPU, counted without one: it may only become less."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="no Triton for this platform")

from metabench.nets.kernels.gpu import convolutions

MOST = {
    ("seed", "second"): (1300, 22.35e9, 1.69e9),
    ("seed", "first"): (584, 15.13e9, 1.08e9),
    ("omni", "second"): (1300, 276.91e9, 8.08e9),
    ("omni", "first"): (584, 185.57e9, 4.81e9),
    ("mini", "second"): (1333, 261.17e9, 11.47e9),
    ("mini", "first"): (602, 121.50e9, 5.11e9),
}
"""Kernels, operations and bytes of a meta-gradient of the benchmark of speed."""

SLACK = 1.02
"""For other versions of torch, which compose some operations of others."""


COUNTED: dict[tuple[str, str], Any] = {}


@pytest.fixture
def floor(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.setattr("metabench.core.device.raise_malloc_thresholds", lambda: None)
    return importlib.import_module("floor")


def counted(floor: ModuleType, setting: str, order: str) -> Any:
    """Count once; recording takes seconds."""
    if (setting, order) not in COUNTED:
        COUNTED[setting, order] = floor.count(setting, order).total
    return COUNTED[setting, order]


@pytest.mark.parametrize(
    ("setting", "order"),
    [pytest.param(*which, marks=[] if which[0] == "seed" else [pytest.mark.slow]) for which in MOST],
)
def test_a_meta_gradient_costs_no_more_than_it_did(floor: ModuleType, setting: str, order: str) -> None:
    total = counted(floor, setting, order)
    for cost, most in zip(total[1:], MOST[setting, order], strict=True):
        assert most / 2 < cost <= SLACK * most  # far less would be a count of some steps only


@pytest.mark.parametrize("order", ["first", "second"])
def test_operations_are_those_that_torch_counts_of_one_task(floor: ModuleType, order: str) -> None:
    peers = importlib.import_module("peers")
    contest = importlib.import_module("contest")
    described = {"setting": "seed", "order": order, "learner": "maml", "steps": 5, "tasks": 2}
    by_torch = contest.Contest(
        argparse.Namespace(**described, what="train", peers="none", device="cpu", precision="float32"), 1
    )
    torchs = contest.SETTINGS["seed"].tasks * peers.flops(by_torch.known["loop"], by_torch.problem)
    ours = counted(floor, "seed", order).operations
    # torch's second derivative takes a gradient to the images as well, which nobody needs.
    assert ours == torchs if order == "first" else 0.97 * torchs < ours <= torchs


def test_a_kernel_and_a_copy_are_counted_as_what_they_are(floor: ModuleType) -> None:
    x, w = torch.empty(3, 2, 8, 8, device="meta"), torch.empty(4, 2, 3, 3, device="meta")
    with floor.counting() as counter:
        x + x.flatten().view_as(x)  # a view costs nothing
        torch.ops.metabench.step(x, w, w[:, 0, 0, 0], 1, False, False)
        convolutions.correlate(x, torch.empty(3, 4, 8, 8, device="meta"), 1)
    costs = dict(counter.costs)
    assert costs["aten::add.Tensor"] == floor.Cost(1, 1, 0, 3 * 4 * x.numel())
    pooled = 3 * 4 * 4 * 4
    n_bytes = 4 * (x.numel() + w.numel() + 4 + pooled + 2 * 4) + pooled  # and where, in bytes
    assert costs["metabench::step"] == floor.Cost(1, 2, 2 * 3 * 64 * w.numel(), n_bytes)
    assert counter.launched == 3
