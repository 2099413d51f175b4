"""Peak memory follows what is held, and keeping freed memory changes no number."""

from __future__ import annotations

import sys

import pytest
import torch

from metabench.core import device

MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak since a moment")
def test_the_peak_holds_what_was_allocated_since_the_reset() -> None:
    device.raise_malloc_thresholds()  # hands back what earlier tests left, else the pages are there already
    device.reset_peak("cpu")
    before = device.peak("cpu")
    held = torch.ones(64 * MIB // 4)
    assert device.peak("cpu") >= before + 32 * MIB
    del held


def test_keeping_freed_memory_changes_no_number() -> None:
    x = torch.linspace(0, 1, 10_000)
    expected = (x.sin() @ x).item()
    device.raise_malloc_thresholds()
    assert (x.sin() @ x).item() == expected
